"""Reading bags, as an operator of torch with gradients.

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
from robe_numba.torch.kernels import Bags, spec_of


def read_bags(
    array: RobeArray,
    indices: Tensor,
    offsets: Tensor,
    weights: Tensor | None,
    spec: str,
    mode: str,
    padding_idx: int | None,
) -> Tensor:
    """Pooled bags (batch, num_tables, d); offsets (num_tables * batch + 1,) are table-major."""
    owner, anchor, learns = learning(array)
    learns = learns or (weights is not None and weights.requires_grad and torch.is_grad_enabled())
    tensors = [array.weight, indices, offsets] + ([] if weights is None else [weights])
    arguments = (array.weight, indices, offsets, weights, spec, mode, padding_idx)
    if not is_eager(*tensors):
        return _embedding_bag(*arguments, learns, anchor, owner)[0]
    if learns:
        return _EmbeddingBag.apply(*arguments, anchor, owner)
    bags = Bags(indices, offsets, weights, spec_of(spec), mode, padding_idx)
    return kernels.embedding_bag(array.weight, bags, False)[0]


@torch.library.custom_op("robe_numba::embedding_bag", mutates_args=())
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
    owner: int,
) -> tuple[Tensor, Tensor]:
    bags = Bags(indices, offsets, weights, spec_of(spec), mode, padding_idx)
    return kernels.embedding_bag(array, bags, keep_starts)


@_embedding_bag.register_fake
def _(
    array: Tensor,
    indices: Tensor,
    offsets: Tensor,
    _: Any,
    spec: str,
    __: Any,
    ___: Any,
    keep_starts: bool,
    *____: Any,
) -> tuple[Tensor, Tensor]:
    known = spec_of(spec)
    batch = (offsets.shape[0] - 1) // known.num_tables
    out = array.new_empty((batch, known.num_tables, known.embedding_dim))
    places = (indices.shape[0], known.num_blocks) if keep_starts else (0,)
    return out, array.new_empty(places, dtype=torch.int64)


@torch.library.custom_op("robe_numba::embedding_bag_gradient", mutates_args=())
def _bag_gradient(
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


@_bag_gradient.register_fake
def _(
    _: Any, grad_out: Tensor, __: Any, ___: Any, ____: Any, _____: Any, spec: str, *______: Any
) -> Tensor:
    return grad_out.new_empty((spec_of(spec).array_size,))


@torch.library.custom_op("robe_numba::embedding_bag_weights_gradient", mutates_args=())
def _weights_gradient(
    array: Tensor,
    grad_out: Tensor,
    indices: Tensor,
    offsets: Tensor,
    spec: str,
    padding_idx: int | None,
) -> Tensor:
    bags = Bags(indices, offsets, None, spec_of(spec), "sum", padding_idx)
    return kernels.weights_gradient(array, grad_out, bags)


@_weights_gradient.register_fake
def _(_: Any, grad_out: Tensor, indices: Tensor, *__: Any) -> Tensor:
    return grad_out.new_empty(indices.shape)


@torch.library.custom_op("robe_numba::collect_embedding_bag", mutates_args=())
def _collect_bag(
    grad_out: Tensor,
    indices: Tensor,
    offsets: Tensor,
    weights: Tensor | None,
    starts: Tensor,
    spec: str,
    mode: str,
    padding_idx: int | None,
    owner: int,
) -> Tensor:
    bags = Bags(indices, offsets, weights, spec_of(spec), mode, padding_idx)
    array_of(owner).collect(Use(bags, grad_out, starts))
    return torch.empty(0)


@_collect_bag.register_fake
def _(*_: Any) -> Tensor:
    return torch.empty(0)


def _save_bag(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    array, indices, offsets, weights, spec, mode, padding_idx, _, _, owner = inputs
    # Where the gradient depends on the array, autograd checks that it has not changed since.
    kept = array if mode == "max" or ctx.needs_input_grad[3] else None
    ctx.save_for_backward(kept, indices, offsets, weights, output[1])
    ctx.constants = spec, mode, padding_idx
    ctx.owner = owner


def _bag_backward(ctx: Any, grad_out: Tensor, _: Any) -> tuple[Any, ...]:
    gradient, of_weights, of_anchor = _differentiate_bag(ctx, grad_out)
    return gradient, None, None, of_weights, None, None, None, None, of_anchor, None


_embedding_bag.register_autograd(_bag_backward, setup_context=_save_bag)


class _EmbeddingBag(Function):
    @staticmethod
    def forward(
        ctx: Any,
        array: Tensor,
        indices: Tensor,
        offsets: Tensor,
        weights: Tensor | None,
        spec: str,
        mode: str,
        padding_idx: int | None,
        anchor: Tensor | None,
        owner: int,
    ) -> Tensor:
        bags = Bags(indices, offsets, weights, spec_of(spec), mode, padding_idx)
        out, starts = kernels.embedding_bag(array, bags, True)
        inputs = (array, indices, offsets, weights, spec, mode, padding_idx, None, None, owner)
        _save_bag(ctx, inputs, (out, starts))
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Any, ...]:
        gradient, of_weights, of_anchor = _differentiate_bag(ctx, grad_out)
        return gradient, None, None, of_weights, None, None, None, of_anchor, None


def _differentiate_bag(
    ctx: Any, grad_out: Tensor
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of the array, of the weights and of the anchor."""
    array, indices, offsets, weights, starts = ctx.saved_tensors
    spec, mode, padding_idx = ctx.constants
    gradient = of_weights = of_anchor = None
    if ctx.needs_input_grad[3]:
        of_weights = _weights_gradient(array, grad_out, indices, offsets, spec, padding_idx)
    arguments = (grad_out, indices, offsets, weights, starts, spec, mode, padding_idx)
    if ctx.owner:
        of_anchor = _collect_bag(*arguments, ctx.owner)
    elif ctx.needs_input_grad[0]:
        gradient = _bag_gradient(array, *arguments)
    return gradient, of_weights, of_anchor
