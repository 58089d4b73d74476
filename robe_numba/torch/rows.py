"""Reading rows, as an operator of torch with gradients.

In eager mode an `autograd.Function` calls the kernels. Where torch looks into a call, to compile,
export, transform or fake it, the call is an operator of `torch.library` instead, which costs more
for each call. Both have the same backward.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from robe_numba.torch import kernels
from robe_numba.torch.array import RobeArray, array_of
from robe_numba.torch.calls import is_eager, learning
from robe_numba.torch.fused import Use
from robe_numba.torch.kernels import Rows, spec_of


def read_rows(array: RobeArray, indices: Tensor, spec: str, padding_idx: int | None) -> Tensor:
    """Rows (*indices.shape, d) of indices (..., num_tables); `spec` is a JSON text."""
    owner, anchor, learns = learning(array)
    weight = array.weight
    if not is_eager(weight, indices):
        return _lookup(weight, indices, spec, padding_idx, learns, anchor, owner)[0]
    if learns:
        return _Lookup.apply(weight, indices, spec, padding_idx, anchor, owner)
    return kernels.lookup(weight, Rows(indices, spec_of(spec), padding_idx), False)[0]


@torch.library.custom_op("robe_numba::lookup", mutates_args=())
def _lookup(
    array: Tensor,
    indices: Tensor,
    spec: str,
    padding_idx: int | None,
    keep_starts: bool,
    anchor: Tensor | None,
    owner: int,
) -> tuple[Tensor, Tensor]:
    return kernels.lookup(array, Rows(indices, spec_of(spec), padding_idx), keep_starts)


@_lookup.register_fake
def _(
    array: Tensor, indices: Tensor, spec: str, _: Any, keep_starts: bool, *__: Any
) -> tuple[Tensor, Tensor]:
    known = spec_of(spec)
    kernels.check_indices_shape(indices, known)
    places = (*indices.shape, known.num_blocks) if keep_starts else (0,)
    out = array.new_empty((*indices.shape, known.embedding_dim))
    return out, array.new_empty(places, dtype=torch.int64)


@torch.library.custom_op("robe_numba::lookup_gradient", mutates_args=())
def _lookup_gradient(
    grad_out: Tensor, indices: Tensor, starts: Tensor, spec: str, padding_idx: int | None
) -> Tensor:
    return kernels.lookup_gradient(grad_out, Rows(indices, spec_of(spec), padding_idx), starts)


@_lookup_gradient.register_fake
def _(grad_out: Tensor, indices: Tensor, starts: Tensor, spec: str, *_: Any) -> Tensor:
    return grad_out.new_empty((spec_of(spec).array_size,))


@torch.library.custom_op("robe_numba::collect_lookup", mutates_args=())
def _collect_lookup(
    grad_out: Tensor,
    indices: Tensor,
    starts: Tensor,
    spec: str,
    padding_idx: int | None,
    owner: int,
) -> Tensor:
    rows = Rows(indices, spec_of(spec), padding_idx)
    array_of(owner).collect(Use(rows, grad_out, starts))
    return torch.empty(0)


@_collect_lookup.register_fake
def _(*_: Any) -> Tensor:
    return torch.empty(0)


def _save_lookup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    _, indices, spec, padding_idx, _, _, owner = inputs
    ctx.save_for_backward(indices, output[1])
    ctx.constants = spec, padding_idx
    ctx.owner = owner


def _lookup_backward(ctx: Any, grad_out: Tensor, _: Any) -> tuple[Any, ...]:
    gradient, of_anchor = _differentiate_lookup(ctx, grad_out)
    return gradient, None, None, None, None, of_anchor, None


_lookup.register_autograd(_lookup_backward, setup_context=_save_lookup)


def _save_gradient(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, indices, _, spec, padding_idx = inputs
    ctx.save_for_backward(indices)
    ctx.constants = spec, padding_idx


def _gradient_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    """The gradient is linear in `grad_out`: its own gradient reads rows, as `lookup` does."""
    rows, _ = _lookup(grad, *ctx.saved_tensors, *ctx.constants, False, None, 0)
    return rows, None, None, None, None


_lookup_gradient.register_autograd(_gradient_backward, setup_context=_save_gradient)


class _Lookup(Function):
    @staticmethod
    def forward(
        ctx: Any,
        array: Tensor,
        indices: Tensor,
        spec: str,
        padding_idx: int | None,
        anchor: Tensor | None,
        owner: int,
    ) -> Tensor:
        rows = Rows(indices, spec_of(spec), padding_idx)
        out, starts = kernels.lookup(array, rows, True)
        _save_lookup(ctx, (None, indices, spec, padding_idx, None, None, owner), (out, starts))
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Any, ...]:
        gradient, of_anchor = _differentiate_lookup(ctx, grad_out)
        return gradient, None, None, None, of_anchor, None


def _differentiate_lookup(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of the array and of the anchor."""
    indices, starts = ctx.saved_tensors
    if ctx.owner:
        return None, _collect_lookup(grad_out, indices, starts, *ctx.constants, ctx.owner)
    if torch.is_grad_enabled() or not is_eager(grad_out, indices):
        return _lookup_gradient(grad_out, indices, starts, *ctx.constants), None
    spec, padding_idx = ctx.constants
    rows = Rows(indices, spec_of(spec), padding_idx)
    return kernels.lookup_gradient(grad_out, rows, starts), None
