"""The module that replaces `nn.Embedding`."""

from typing import Any, Self, Unpack

import torch
from torch import Tensor, nn

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


class RobeEmbedding(RobeReader):
    """A drop-in replacement for `nn.Embedding` whose rows are read from a shared array.

    Parameters
    ----------
    num_embeddings : int or None
        Rows of the table; an id outside it is an error. With None, any 64-bit id is allowed.
    embedding_dim : int
        d, elements of one embedding.
    padding_idx : int, optional
        An id whose embedding is always 0 and gets no gradient.
    max_norm, scale_grad_by_freq, sparse, _weight, _freeze
        Accepted only with their default values, as a hashed table cannot support them.
    norm_type
        Has no effect without `max_norm`.
    device, dtype
        Of the array.
    **options
        See `robe_numba.torch.reader.Options`: `compression`, `array`, `block_size`, ... By default
        the array is 100 times smaller than the table.

    Raises
    ------
    TypeError, ValueError
        An option is unknown, out of range or not supported; the message says what to use instead.
    AssertionError, RuntimeError
        torch's own, for arguments that `nn.Embedding` refuses.

    Notes
    -----
    Source: Desai, Chou, Shrivastava, ROBE, MLSys 2022.
    """

    def __init__(
        self,
        num_embeddings: int | None,
        embedding_dim: int,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
        _weight: Tensor | None = None,
        _freeze: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
        **options: Unpack[Options],
    ):
        refuse_options(max_norm, scale_grad_by_freq, sparse, _weight, _freeze)
        sizes = None
        if num_embeddings is not None:
            # On "meta" it takes no memory. It raises torch's own errors.
            table = nn.Embedding(num_embeddings, embedding_dim, padding_idx, device="meta")
            padding_idx, sizes = table.padding_idx, (num_embeddings,)
        super().__init__(*array_and_spec(1, embedding_dim, sizes, device, dtype, options))
        self.num_embeddings, self.padding_idx = num_embeddings, padding_idx

    @classmethod
    def from_pretrained(
        cls,
        embeddings: Tensor,
        freeze: bool = True,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
        **options: Unpack[Options],
    ) -> Self:
        """A module that approximates a trained table (num_embeddings, d), frozen by default.

        The arguments are those of `nn.Embedding.from_pretrained` and the options of this module;
        see `project` for how the array is filled.

        Raises
        ------
        ValueError
            The table is not two-dimensional, or an argument is not supported.
        """
        refuse_options(max_norm, scale_grad_by_freq, sparse)
        rows, dim = table_shape(embeddings)
        given: Any = options_like(embeddings, options)
        module = cls(rows, dim, padding_idx, **given)
        return filled(module, embeddings, freeze)

    def forward(self, input: Tensor) -> Tensor:
        """Look up embeddings.

        Parameters
        ----------
        input : Tensor, any shape, int32 or int64
            Ids.

        Returns
        -------
        Tensor, (*input.shape, d) of the array's dtype

        Raises
        ------
        IndexError, RuntimeError
            As `nn.Embedding`: an id is outside the table (not checked on a GPU), or the dtype of
            the ids is wrong.
        """
        return read_rows(self.array, input, self._spec_text, self.padding_idx, self.training)

    def extra_repr(self) -> str:
        return self._describe(self.num_embeddings, padding_idx=self.padding_idx)
