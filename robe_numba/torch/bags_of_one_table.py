"""From the arguments of `nn.EmbeddingBag` to the bags that kernels take."""

from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.nn import functional

from robe_numba.kernels.scalar.bags import MODES


def bags_of(
    module: Any, input: Tensor, offsets: Tensor | None, per_sample_weights: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Ids (n,), offsets (batch + 1,) and weights (n,), from arguments as `nn.EmbeddingBag` takes.

    Raises
    ------
    ValueError, NotImplementedError
        Those of torch, where it refuses shapes or the mode.
    """
    weights = per_sample_weights
    nested = input.is_nested
    matrix = input.dim() == 2 and not nested
    fits = (
        module.mode in MODES
        and (offsets is None if input.dim() == 2 else input.dim() == 1 and _is_vector(offsets))
        and (not module.include_last_offset or offsets is None or offsets.numel() > 0)
        and (weights is None or module.mode == "sum")
        and (weights is None or nested or weights.shape == input.shape)
    )
    if not fits:
        _refuse(module, input, offsets, weights)
    if nested:
        return input.values(), input.offsets(), None if weights is None else weights.values()
    if matrix:
        batch, length = input.shape
        # A step of 0 is none for torch.
        ends = torch.arange(batch + 1, dtype=torch.int64, device=input.device) * length
        weights = None if weights is None else weights.reshape(-1)
        return input.reshape(-1), ends, weights
    assert offsets is not None
    if not module.include_last_offset:
        offsets = torch.cat([offsets, offsets.new_full((1,), input.numel())])
    return input, offsets, weights


def are_single(
    module: Any, input: Tensor, offsets: Tensor | None, per_sample_weights: Tensor | None
) -> bool:
    """Whether all bags are one id without a weight; pooled by any mode, they are its row."""
    plain = offsets is None and per_sample_weights is None and module.mode in MODES
    if not plain or torch.jit.is_tracing():  # a trace would keep what holds for these bags alone
        return False
    return not input.is_nested and input.dim() == 2 and input.shape[1] == 1


def _is_vector(offsets: Any) -> bool:
    return isinstance(offsets, Tensor) and offsets.dim() == 1


def _refuse(module: Any, input: Tensor, offsets: Any, weights: Tensor | None) -> NoReturn:
    """Raise torch's own error; its table takes no memory here."""
    functional.embedding_bag(
        input,
        torch.empty((1, 1), device=input.device),
        offsets,
        mode=module.mode,
        per_sample_weights=weights,
        include_last_offset=module.include_last_offset,
    )
    raise ValueError(
        f"input has shape {tuple(input.shape)}; expected (n,) with offsets, or (batch, length)"
    )
