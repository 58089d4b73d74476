"""Reading bags, with gradients of the array and of the weights; see `rows`."""

from typing import Any

import torch
from torch import Tensor

from robe_numba.torch import kernels
from robe_numba.torch.array import RobeArray, anchor_gradient, array_of
from robe_numba.torch.fused import Use
from robe_numba.torch.kernels import Bags, spec_of
from robe_numba.torch.operator import Operator, call_for_effect, no_second_gradient, save_nothing


def read_bags(
    array: RobeArray,
    indices: Tensor,
    offsets: Tensor,
    weights: Tensor | None,
    spec: str,
    mode: str,
    padding_idx: int | None,
    training: bool,
) -> Tensor:
    """Pooled bags (batch, num_tables, d); offsets (num_tables * batch + 1,) are table-major."""
    bags = (indices, offsets, weights, spec, mode, padding_idx)
    return embedding_bag(array.weight, *bags, *array.owner(training))[0]


def _embedding_bag(
    array: Tensor,
    indices: Tensor,
    offsets: Tensor,
    weights: Tensor | None,
    spec: str,
    mode: str,
    padding_idx: int | None,
    keep_starts: bool,
    anchor: Tensor | None,
    use: int,
) -> tuple[Tensor, Tensor]:
    bags = Bags(indices, offsets, weights, spec_of(spec), mode, padding_idx)
    return kernels.embedding_bag(array, bags, keep_starts)


def _fake_bag(
    array: Tensor,
    indices: Tensor,
    offsets: Tensor,
    weights: Any,
    spec: str,
    mode: str,
    padding_idx: Any,
    keep_starts: bool,
    *_: Any,
) -> tuple[Tensor, Tensor]:
    known = spec_of(spec)
    batch = (offsets.shape[0] - 1) // known.num_tables
    out = array.new_empty((batch, known.num_tables, known.embedding_dim))
    places = (indices.shape[0], known.num_blocks) if keep_starts else (0,)
    return out, array.new_empty(places, dtype=torch.int64)


def _save_bag(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    array, indices, offsets, weights, spec, mode, padding_idx, _, anchor, use = inputs
    # Where the gradient depends on the array, autograd checks that it has not changed since.
    kept = array if mode == "max" or ctx.needs_input_grad[3] else None
    ctx.set_materialize_grads(False)  # zeros for the starts
    ctx.save_for_backward(kept, indices, offsets, weights, output[1], anchor)
    ctx.save_for_forward(array, indices, offsets, weights)
    ctx.constants, ctx.use = (spec, mode, padding_idx), use


def _bag_backward(ctx: Any, grad_out: Tensor | None, _: Any) -> tuple[Any, ...]:
    if grad_out is None:
        return (None,) * 10
    array, indices, offsets, weights, starts, anchor = ctx.saved_tensors
    arguments = (grad_out, indices, offsets, weights, starts, *ctx.constants)
    gradient = of_weights = of_anchor = None
    if ctx.needs_input_grad[3]:
        spec, _, padding_idx = ctx.constants
        of_weights = weights_gradient(array, grad_out, indices, offsets, spec, padding_idx)
    if anchor is not None:
        of_anchor = call_for_effect(collect_bag, *arguments, anchor.detach(), ctx.use)
    elif ctx.needs_input_grad[0]:
        gradient = bag_gradient(array, *arguments)
    return gradient, None, None, of_weights, None, None, None, None, of_anchor, None


def _bag_jvp(
    ctx: Any, of_array: Tensor | None, _: Any, __: Any, of_weights: Tensor | None, *___: Any
) -> tuple[Tensor | None, None]:
    """Sums and means are linear in the array and in the weights."""
    array, indices, offsets, weights = ctx.saved_tensors
    if ctx.constants[1] == "max":
        raise NotImplementedError("mode 'max' has no forward-mode derivative; use backward")
    plain = (*ctx.constants, False, None, 0)
    parts = []
    if of_array is not None:
        parts.append(embedding_bag(of_array, indices, offsets, weights, *plain)[0])
    if of_weights is not None:
        parts.append(embedding_bag(array, indices, offsets, of_weights, *plain)[0])
    return sum(parts[1:], parts[0]), None


embedding_bag = Operator(_embedding_bag, _fake_bag, _save_bag, _bag_backward, jvp=_bag_jvp)


def _embedding_bag_gradient(
    array: Tensor | None,
    grad_out: Tensor,
    indices: Tensor,
    offsets: Tensor,
    weights: Tensor | None,
    starts: Tensor,
    spec: str,
    mode: str,
    padding_idx: int | None,
) -> Tensor:
    bags = Bags(indices, offsets, weights, spec_of(spec), mode, padding_idx)
    return kernels.bag_gradient(array, grad_out, bags, starts)


def _fake_gradient(array: Any, grad_out: Tensor, *others: Any) -> Tensor:
    return grad_out.new_empty((spec_of(others[4]).array_size,))


bag_gradient = Operator(_embedding_bag_gradient, _fake_gradient, save_nothing, no_second_gradient)


def _embedding_bag_weights_gradient(
    array: Tensor,
    grad_out: Tensor,
    indices: Tensor,
    offsets: Tensor,
    spec: str,
    padding_idx: int | None,
) -> Tensor:
    bags = Bags(indices, offsets, None, spec_of(spec), "sum", padding_idx)
    return kernels.weights_gradient(array, grad_out, bags)


def _fake_weights(array: Any, grad_out: Tensor, indices: Tensor, *_: Any) -> Tensor:
    return grad_out.new_empty(indices.shape)


weights_gradient = Operator(
    _embedding_bag_weights_gradient, _fake_weights, save_nothing, no_second_gradient
)


def _collect_embedding_bag(
    grad_out: Tensor,
    indices: Tensor,
    offsets: Tensor,
    weights: Tensor | None,
    starts: Tensor,
    spec: str,
    mode: str,
    padding_idx: int | None,
    anchor: Tensor,
    use: int,
) -> Tensor:
    bags = Bags(indices, offsets, weights, spec_of(spec), mode, padding_idx)
    array_of(anchor).collect(Use(bags, grad_out.detach(), starts), use)
    return anchor_gradient()


collect_bag = Operator(_collect_embedding_bag, anchor_gradient, save_nothing, no_second_gradient)
