"""The module that replaces `nn.EmbeddingBag`."""

from typing import Any, NoReturn, Self, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional

from robe_numba.kernels.scalar.bags import MODES
from robe_numba.torch.bags import read_bags
from robe_numba.torch.projection import filled
from robe_numba.torch.reader import (
    Options,
    RobeReader,
    array_and_spec,
    options_like,
    refuse_options,
    table_shape,
)
from robe_numba.torch.rows import read_rows


class RobeEmbeddingBag(RobeReader):
    """A drop-in replacement for `nn.EmbeddingBag` whose rows are read from a shared array.

    Parameters
    ----------
    num_embeddings, embedding_dim, device, dtype, **options
        As for `RobeEmbedding`.
    mode : {"sum", "mean", "max"}
        How the embeddings of a bag are pooled.
    include_last_offset : bool
        Whether the last element of `offsets` is the end of the last bag.
    padding_idx : int, optional
        An id that is left out of every bag, and out of the count of "mean".
    max_norm, scale_grad_by_freq, sparse, _weight
        Accepted only with their default values, as a hashed table cannot support them.
    norm_type
        Has no effect without `max_norm`.

    Raises
    ------
    TypeError, ValueError, AssertionError, RuntimeError
        As `RobeEmbedding`.
    """

    def __init__(
        self,
        num_embeddings: int | None,
        embedding_dim: int,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        mode: str = "mean",
        sparse: bool = False,
        _weight: Tensor | None = None,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
        **options: Unpack[Options],
    ):
        refuse_options(max_norm, scale_grad_by_freq, sparse, _weight)
        sizes = None
        if num_embeddings is not None:
            table = nn.EmbeddingBag(
                num_embeddings, embedding_dim, padding_idx=padding_idx, device="meta"
            )
            padding_idx, sizes = table.padding_idx, (num_embeddings,)
        super().__init__(*array_and_spec(1, embedding_dim, sizes, device, dtype, options))
        self.num_embeddings, self.padding_idx, self.mode = num_embeddings, padding_idx, mode
        self.include_last_offset = include_last_offset

    @classmethod
    def from_pretrained(
        cls,
        embeddings: Tensor,
        freeze: bool = True,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        mode: str = "mean",
        sparse: bool = False,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
        **options: Unpack[Options],
    ) -> Self:
        """A module that approximates a trained table (num_embeddings, d), frozen by default.

        The arguments are those of `nn.EmbeddingBag.from_pretrained` and the options of this
        module; see `project` for how the array is filled.

        Raises
        ------
        ValueError
            The table is not two-dimensional, or an argument is not supported.
        """
        refuse_options(max_norm, scale_grad_by_freq, sparse)
        rows, dim = table_shape(embeddings)
        given: Any = options_like(embeddings, options)
        module = cls(
            rows,
            dim,
            mode=mode,
            include_last_offset=include_last_offset,
            padding_idx=padding_idx,
            **given,
        )
        return filled(module, embeddings, freeze)

    def forward(
        self,
        input: Tensor,
        offsets: Tensor | None = None,
        per_sample_weights: Tensor | None = None,
    ) -> Tensor:
        """Pool bags of ids.

        Parameters
        ----------
        input : Tensor, (n,) or (batch, length), int32 or int64
            Ids. In a matrix each row is a bag, and so it is in a nested tensor.
        offsets : Tensor, (batch,) or (batch + 1,), int32 or int64
            Where each bag begins, if `input` is a vector; otherwise None.
        per_sample_weights : Tensor, of the shape of `input` and the dtype of the array, optional
            A factor for each id; only with mode "sum".

        Returns
        -------
        Tensor, (batch, d) of the array's dtype
            Empty bags are 0.

        Raises
        ------
        ValueError, NotImplementedError, RuntimeError
            As `nn.EmbeddingBag`. Ids and offsets are not checked on a GPU.
        """
        if _are_single(self, input, offsets, per_sample_weights):
            try:
                rows = read_rows(
                    self.array, input, self._spec_text, self.padding_idx, self.training
                )
                return rows.squeeze(1)
            except IndexError as error:  # what torch raises for rows
                raise RuntimeError(str(error)) from None
        bags = _bags_of(self, input, offsets, per_sample_weights)
        how = (self._spec_text, self.mode, self.padding_idx)
        pooled = read_bags(self.array, *bags, *how, self.training)
        return pooled.squeeze(1)

    def extra_repr(self) -> str:
        return self._describe(
            self.num_embeddings,
            mode=self.mode,
            padding_idx=self.padding_idx,
            include_last_offset=self.include_last_offset or None,
        )


def _bags_of(
    module: Any, input: Tensor, offsets: Tensor | None, per_sample_weights: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Ids (n,), offsets (batch + 1,) and weights (n,), from the arguments of `forward`.

    Raises
    ------
    ValueError, NotImplementedError
        torch's own, for shapes or a mode that it refuses.
    """
    weights = per_sample_weights
    nested = input.is_nested
    matrix = input.dim() == 2 and not nested
    fits = (
        module.mode in (*MODES,)
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
        # Not `arange` with a step of `length`, as torch refuses a step of 0.
        ends = torch.arange(batch + 1, dtype=torch.int64, device=input.device) * length
        weights = None if weights is None else weights.reshape(-1)
        return input.reshape(-1), ends, weights
    assert offsets is not None
    if not module.include_last_offset:
        offsets = torch.cat([offsets, offsets.new_full((1,), input.numel())])
    return input, offsets, weights


def _are_single(
    module: Any, input: Tensor, offsets: Tensor | None, per_sample_weights: Tensor | None
) -> bool:
    """Whether each bag is a single id without a weight; in any mode the result is its row."""
    plain = offsets is None and per_sample_weights is None and module.mode in (*MODES,)
    if not plain or torch.jit.is_tracing():  # a trace would be wrong for longer bags
        return False
    return not input.is_nested and input.dim() == 2 and input.shape[1] == 1


def _is_vector(offsets: Any) -> bool:
    return isinstance(offsets, Tensor) and offsets.dim() == 1


def _refuse(module: Any, input: Tensor, offsets: Any, weights: Tensor | None) -> NoReturn:
    """Raise torch's own error, by calling it with a table of one element."""
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
