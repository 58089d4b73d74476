"""A differentiable function of tensors that works in every mode of torch."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad
from torch.autograd.function import _SingleLevelFunction

_PLAIN = (Tensor, torch.nn.Parameter)


class Operator:
    """A differentiable function of tensors and of constants that a graph can hold.

    An eager call uses an `autograd.Function`, or the plain function if no gradient is needed. To
    compile, export or fake a call, torch needs an operator of `torch.library`, which takes tens of
    microseconds more. `torch.func` needs another form of `autograd.Function`. All three share
    `save` and `backward`.

    torch caches compiled graphs on disk by the names and arguments of operators, not by their code.
    So if the gradient of an operator changes, its name must change too.

    Parameters
    ----------
    forward : callable
        The function. Its name and annotations define the operator of `torch.library`.
    fake : callable
        As `forward`, for tensors without values.
    save : callable
        Called with (ctx, inputs, output), to keep what `backward` needs.
    backward : callable
        Called with (ctx, *gradients of the outputs); returns a gradient or None for each input.
    vmap : callable, optional
        As the static method of `autograd.Function`; by default a loop over the batch.
    jvp : callable, optional
        Called with (ctx, *tangents of the inputs); returns the tangents of the outputs.
    """

    def __init__(
        self,
        forward: Callable[..., Any],
        fake: Callable[..., Any],
        save: Callable[..., None],
        backward: Callable[..., Any],
        vmap: Callable[..., Any] | None = None,
        jvp: Callable[..., Any] | None = None,
    ):
        self.function = forward
        vmap = vmap or self._one_by_one
        name = f"robe_numba::{forward.__name__.strip('_')}"
        self._visible = torch.library.custom_op(name, forward, mutates_args=())
        self._visible.register_fake(fake)
        self._visible.register_autograd(backward, setup_context=save)
        self._visible.register_vmap(vmap)

        # `Function.apply` would check again, for microseconds, what `__call__` has checked.
        class Eager(_SingleLevelFunction):
            _compiled_autograd_key = Function._compiled_autograd_key

            @staticmethod
            def forward(ctx: Any, *inputs: Any) -> Any:
                output = forward(*inputs)
                save(ctx, inputs, output)
                return output

        class Transformed(Function):
            pass

        Eager.backward = staticmethod(backward)
        Transformed.forward = staticmethod(forward)
        Transformed.setup_context = staticmethod(save)
        Transformed.backward = staticmethod(backward)
        Transformed.vmap = staticmethod(vmap)
        if jvp is not None:
            Transformed.jvp = staticmethod(jvp)
        self._eager, self._transformed = Eager, Transformed

    def __call__(self, *inputs: Any) -> Any:
        if torch.compiler.is_compiling():
            return self._visible(*inputs)
        if (
            torch._C._functorch.peek_interpreter_stack() is not None
            or forward_ad._current_level >= 0
        ):
            return self._transformed.apply(*inputs)
        if torch._C._len_torch_dispatch_stack() or torch.jit.is_tracing():
            return self._visible(*inputs)
        differentiable = False
        for value in inputs:
            if type(value) in _PLAIN and not value.is_meta:
                differentiable = differentiable or value.requires_grad
            elif isinstance(value, Tensor):
                return self._visible(*inputs)
        if differentiable and torch.is_grad_enabled():
            return self._eager.apply(*inputs)
        return self.function(*inputs)

    def _one_by_one(self, info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> Any:
        """A rule of `torch.vmap`: a call for each element of the batch."""
        outputs = []
        for i in range(info.batch_size):
            each = [
                value if dim is None else value.select(dim, i)
                for value, dim in zip(inputs, in_dims, strict=True)
            ]
            outputs.append(self(*each))
        if isinstance(outputs[0], tuple):
            stacked = tuple(map(torch.stack, zip(*outputs, strict=True)))
            return stacked, (0,) * len(stacked)
        return torch.stack(outputs), 0


def call_for_effect(operator: Operator, *inputs: Any) -> Tensor | None:
    """Call an operator for its side effect; the result keeps the call in a compiled graph.

    Where no graph is made, call the plain function, which is faster, and return None.
    """
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack():
        return operator(*inputs)
    operator.function(*inputs)
    return None


def no_second_gradient(ctx: Any, *gradients: Any) -> Any:
    """Refuse to differentiate a gradient.

    Raises
    ------
    RuntimeError
        Always.
    """
    raise RuntimeError(
        "the gradient of bags and of fused optimizers cannot be differentiated again; use "
        "RobeEmbedding or RobeTables with one id per table and without a fused optimizer"
    )


def save_nothing(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    """Keep nothing for the backward pass."""
