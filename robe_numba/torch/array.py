"""The shared array as a module, with an optional optimizer that steps during backward."""

import sys
from collections.abc import Callable
from itertools import count
from typing import Any, Self
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch._C._functorch import TransformType
from torch.autograd.graph import get_gradient_edge

from robe_numba.checks.scalars import check_scalar
from robe_numba.memory import aligned_empty
from robe_numba.spec import MAX_SIZE, check_int
from robe_numba.torch.fused import FusedOptimizer, Use

SCALE = 1e-3  # so small that an id seen once or never hardly affects a score
WITHIN_BACKWARD = -1  # number of a use that a backward pass recorded
_numbers = count(1)
_arrays: WeakValueDictionary[int, "RobeArray"] = WeakValueDictionary()


class _Pass:
    """The gradients of one backward pass, which ends by a step; a pass that fails forgets them."""

    def __init__(self, end: Callable[[list[Use]], None]) -> None:
        self.uses: list[Use] = []
        torch.autograd.Variable._execution_engine.queue_callback(lambda: end(self.uses))


class _Collected:
    """Gradients that wait for a step; kept apart, as attributes of a module are slow to set."""

    def __init__(self) -> None:
        # Backward passes by their numbers, as threads have one each, and one may start another.
        self.passes: WeakValueDictionary[int, _Pass] = WeakValueDictionary()
        self.held: list[Use] = []  # gradients of passes that ended


class RobeArray(nn.Module):
    """A shared array: one parameter that any number of embedding modules read.

    Parameters
    ----------
    size : int
        m, the number of elements.
    scale : float
        Half-width of the uniform initial values, drawn from torch's generator.
    optimizer : FusedSGD or FusedAdagrad, optional
        Updates the array during backward. By default the array has a dense gradient, for any
        `torch.optim`.
    device, dtype
        Of the array. Fused optimizers need float32 or float64; scoring also works in half
        precision.

    Attributes
    ----------
    weight : Parameter, (size,)
        The array. With a fused optimizer it has `requires_grad=False`.
    optimizer : FusedSGD, FusedAdagrad or None
        As given. Its `lr` may be changed, but do not assign another optimizer: the array is made
        for this one.
    state_sum : Tensor, (size,)
        Sums of squares of `FusedAdagrad`, a buffer; otherwise None.
    anchor : Tensor, (1,)
        Its value identifies this array in operators, which cannot take a module. It is a tensor
        rather than an integer, so that models of one class share a compiled graph.

    Raises
    ------
    TypeError, ValueError
        `size` or `scale` is not a number or is out of range, or `optimizer` is not a fused one.
    """

    _collected: _Collected

    def __init__(
        self,
        size: int,
        *,
        scale: float = SCALE,
        optimizer: FusedOptimizer | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        size = check_int("size", size, 1, MAX_SIZE)
        self.scale = check_scalar("scale", scale, 0)
        if optimizer is not None and not isinstance(optimizer, FusedOptimizer):
            raise TypeError(
                f"optimizer is a {type(optimizer).__name__}; it must be a FusedSGD, a FusedAdagrad "
                f"or None, which leaves the array to torch.optim"
            )
        self.optimizer = optimizer
        values = _new(size, device, dtype)
        self.weight = nn.Parameter(values, requires_grad=optimizer is None)
        has_sums = optimizer is not None and optimizer.has_sums
        self.register_buffer("state_sum", _new(size, device, dtype) if has_sums else None)
        self.reset_parameters()
        self._readers = 0
        self._begin()

    @classmethod
    def from_tensor(cls, values: Tensor, optimizer: FusedOptimizer | None = None) -> Self:
        """An array with a copy of the given values.

        Parameters
        ----------
        values : Tensor, (m,)
            Their device and dtype are kept.
        optimizer : FusedSGD or FusedAdagrad, optional
            As for `RobeArray`.

        Raises
        ------
        ValueError
            `values` has more than one dimension.
        """
        if values.dim() != 1:
            raise ValueError(
                f"values has shape {tuple(values.shape)}; an array has one dimension: use "
                f"values.flatten()"
            )
        array = cls(len(values), optimizer=optimizer, device=values.device, dtype=values.dtype)
        with torch.no_grad():
            array.weight.copy_(values)
        return array

    @property
    def size(self) -> int:
        """m, the number of elements."""
        return self.weight.numel()

    def reset_parameters(self) -> None:
        """Draw new values, uniform in [-scale, scale], and set the optimizer's sums to 0."""
        nn.init.uniform_(self.weight, -self.scale, self.scale)
        if self.state_sum is not None:
            nn.init.zeros_(self.state_sum)

    def extra_repr(self) -> str:
        fused = "" if self.optimizer is None else f", optimizer={self.optimizer!r}"
        return f"{self.size}{fused}"

    def next_seed(self) -> int:
        """A seed that no other reader of this array was given: 0, 1, ..."""
        self._readers += 1
        return self._readers - 1

    def owner(self, training: bool) -> tuple[bool, Tensor | None, int]:
        """The last arguments of an operator that reads this array: (learns, anchor, use).

        `training` is the mode of the module that reads. Where the backward pass steps, the anchor
        and the number of this use are given; otherwise they are None and 0.
        """
        if not torch.is_grad_enabled() or _is_saving_graph():
            return False, None, 0
        replaced = not isinstance(self.weight, nn.Parameter)  # as by `torch.func.functional_call`
        if self.optimizer is None or not training or replaced or _is_transformed():
            return self.weight.requires_grad, None, 0
        if self.weight.dtype.itemsize == 2:
            raise TypeError(
                f"the array is {self.weight.dtype}, but fused optimizers need float32 or float64; "
                f"use float() to train, or eval() to score"
            )
        use = 0
        if torch.compiler.is_compiling():
            use = _next_use()  # so that a compiler does not merge equal calls
        elif torch._C._current_graph_task_id() != -1:
            use = WITHIN_BACKWARD
        return True, self.anchor, use

    def collect(self, use: Use, number: int) -> None:
        """Take a gradient of the current backward pass, which ends with a step.

        `number` is that of the use, from `owner`.
        """
        if number == WITHIN_BACKWARD:
            raise RuntimeError(
                "a backward pass inside another one cannot step before the outer one ends; use "
                "torch.utils.checkpoint with use_reentrant=False"
            )
        if _is_compiled_autograd():
            raise RuntimeError(
                "compiled autograd does not say when a backward pass ends, which is when fused "
                "optimizers step; do without it, or use the dense gradient"
            )
        if not torch._C._will_engine_execute_node(self._anchor_node):
            return  # only other gradients are wanted, as in `torch.autograd.grad`
        task, passes = torch._C._current_graph_task_id(), self._collected.passes
        current = passes.get(task)
        if current is None:
            current = passes[task] = _Pass(self._end_backward)
        current.uses.append(use)

    def _end_backward(self, uses: list[Use]) -> None:
        assert self.optimizer is not None
        collected = self._collected
        if self.optimizer.holds:
            collected.held += uses
            return
        held, collected.held = collected.held, []
        self.optimizer.step(self.weight, self.state_sum, held + uses)
        written = [self.weight] if self.state_sum is None else [self.weight, self.state_sum]
        torch.autograd.graph.increment_version(written)

    def _begin(self) -> None:
        """Set up a new array or a copy, with its own number and nothing collected."""
        # Makes autograd call the backward of each use; not empty, as compilers drop empty tensors.
        number = next(_numbers)
        with torch.inference_mode(False):
            self.anchor = (anchor_gradient() + number).requires_grad_()
            self._anchor_node = get_gradient_edge(self.anchor).node
        self._collected = _Collected()
        _arrays[number] = self

    def __getstate__(self) -> dict[str, Any]:
        own = ("anchor", "_anchor_node", "_collected")
        return {name: value for name, value in self.__dict__.items() if name not in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._begin()


def _new(size: int, device: Any, dtype: torch.dtype | None) -> Tensor:
    """Uninitialised memory for an array."""
    tensor = torch.empty(size, device=device, dtype=dtype)
    if tensor.device.type == "cpu" and tensor.dtype == torch.float32:
        # NumPy asks the system for huge pages, which are faster to read; torch does not.
        return torch.from_numpy(aligned_empty((size,), "float32"))
    return tensor


def _is_transformed() -> bool:
    """Whether `torch.func` differentiates, which has no backward pass to step in; `vmap` has."""
    if torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is None:
        return False
    levels = torch._C._functorch.get_interpreter_stack()
    return any(level.key() != TransformType.Vmap for level in levels)


def _is_saving_graph() -> bool:
    """Whether a graph is being saved, which may run in a process without these arrays."""
    return torch.jit.is_tracing() or torch.compiler.is_exporting()


def _is_compiled_autograd() -> bool:
    """Whether a graph of compiled autograd runs; it has been imported then, which takes long."""
    module: Any = sys.modules.get("torch._dynamo.compiled_autograd")
    return module is not None and module.in_compiled_autograd_region


@torch.compiler.assume_constant_result
def _next_use() -> int:
    return next(_numbers)


def anchor_gradient(*_: Any) -> Tensor:
    """The gradient of an anchor, a dummy; on the CPU whatever the default device is."""
    return torch.zeros(1, dtype=torch.float64, device="cpu")


def array_of(anchor: Tensor) -> RobeArray:
    """The array of an anchor."""
    number = int(anchor)
    if number not in _arrays:
        raise RuntimeError(
            "the module whose optimizer steps during backward is gone; keep it until then"
        )
    return _arrays[number]
