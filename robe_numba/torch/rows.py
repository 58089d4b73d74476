"""Reading rows, with gradients of any order.

An array with a fused optimizer requires no gradient. Instead its `anchor`, a dummy tensor that
requires one, makes autograd call the backward of each use, which passes the gradient to the array.
"""

from typing import Any

import torch
from torch import Tensor

from robe_numba.torch import kernels
from robe_numba.torch.array import RobeArray, anchor_gradient, array_of
from robe_numba.torch.fused import Use
from robe_numba.torch.kernels import Rows, spec_of
from robe_numba.torch.operator import Operator, call_for_effect, no_second_gradient, save_nothing


def read_rows(
    array: RobeArray, indices: Tensor, spec: str, padding_idx: int | None, training: bool
) -> Tensor:
    """Rows (*indices.shape, d) of indices (..., num_tables); `spec` is JSON."""
    return lookup(array.weight, indices, spec, padding_idx, *array.owner(training))[0]


def _lookup(
    array: Tensor,
    indices: Tensor,
    spec: str,
    padding_idx: int | None,
    keep_starts: bool,
    anchor: Tensor | None,
    use: int,
) -> tuple[Tensor, Tensor]:
    return kernels.lookup(array, Rows(indices, spec_of(spec), padding_idx), keep_starts)


def _fake_lookup(
    array: Tensor, indices: Tensor, spec: str, padding_idx: Any, keep_starts: bool, *_: Any
) -> tuple[Tensor, Tensor]:
    known = spec_of(spec)
    kernels.check_indices_shape(indices, known)
    places = (*indices.shape, known.num_blocks) if keep_starts else (0,)
    out = array.new_empty((*indices.shape, known.embedding_dim))
    return out, array.new_empty(places, dtype=torch.int64)


def _save_lookup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    _, indices, spec, padding_idx, _, anchor, use = inputs
    ctx.set_materialize_grads(False)  # zeros for the starts
    ctx.save_for_backward(indices, output[1], anchor)
    ctx.save_for_forward(indices)
    ctx.constants, ctx.use = (spec, padding_idx), use


def _lookup_backward(ctx: Any, grad_out: Tensor | None, _: Any) -> tuple[Any, ...]:
    if grad_out is None:
        return (None,) * 7
    indices, starts, anchor = ctx.saved_tensors
    arguments = (grad_out, indices, starts, *ctx.constants)
    gradient = of_anchor = None
    if anchor is not None:
        of_anchor = call_for_effect(collect_lookup, *arguments, anchor.detach(), ctx.use)
    else:
        gradient = lookup_gradient(*arguments)
    return gradient, None, None, None, None, of_anchor, None


def _lookup_jvp(ctx: Any, of_array: Tensor, *_: Any) -> tuple[Tensor, None]:
    """Rows are linear in the array."""
    return lookup(of_array, *ctx.saved_tensors, *ctx.constants, False, None, 0)[0], None


def _vmap_lookup(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> Any:
    """Indices with a batch dimension for one array are read in one call."""
    if in_dims[0] is not None:
        return lookup._one_by_one(info, in_dims, *inputs)
    indices = inputs[1].movedim(in_dims[1], 0)
    out, starts = lookup(inputs[0], indices, *inputs[2:])
    return (out, starts), (0, 0 if inputs[4] else None)


lookup = Operator(_lookup, _fake_lookup, _save_lookup, _lookup_backward, _vmap_lookup, _lookup_jvp)


def _lookup_gradient(
    grad_out: Tensor, indices: Tensor, starts: Tensor, spec: str, padding_idx: int | None
) -> Tensor:
    return kernels.lookup_gradient(grad_out, Rows(indices, spec_of(spec), padding_idx), starts)


def _fake_gradient(
    grad_out: Tensor, indices: Tensor, starts: Tensor, spec: str, padding_idx: int | None
) -> Tensor:
    return grad_out.new_empty((spec_of(spec).array_size,))


def _save_gradient(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, indices, starts, spec, padding_idx = inputs
    ctx.save_for_backward(indices)
    ctx.save_for_forward(indices, starts)
    ctx.constants = spec, padding_idx


def _gradient_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    """The gradient is linear in `grad_out`, so its own gradient is a lookup in `grad`."""
    rows, _ = lookup(grad, *ctx.saved_tensors, *ctx.constants, False, None, 0)
    return rows, None, None, None, None


def _gradient_jvp(ctx: Any, of_grad_out: Tensor, *_: Any) -> Tensor:
    return lookup_gradient(of_grad_out, *ctx.saved_tensors, *ctx.constants)


lookup_gradient = Operator(
    _lookup_gradient, _fake_gradient, _save_gradient, _gradient_backward, jvp=_gradient_jvp
)


def _collect_lookup(
    grad_out: Tensor,
    indices: Tensor,
    starts: Tensor,
    spec: str,
    padding_idx: int | None,
    anchor: Tensor,
    use: int,
) -> Tensor:
    rows = Rows(indices, spec_of(spec), padding_idx)
    array_of(anchor).collect(Use(rows, grad_out.detach(), starts), use)
    return anchor_gradient()


collect_lookup = Operator(_collect_lookup, anchor_gradient, save_nothing, no_second_gradient)
