"""Modules that take the place of `nn.Embedding` and `nn.EmbeddingBag`, and one for all features."""

from collections.abc import Sequence
from typing import Any, Self, Unpack

import torch
from torch import Tensor, nn

from robe_numba.spec import RobeSpec
from robe_numba.torch.array import RobeArray
from robe_numba.torch.bags import read_bags
from robe_numba.torch.bags_of_one_table import are_single, bags_of
from robe_numba.torch.options import (
    Options,
    array_and_spec,
    refuse_options,
)
from robe_numba.torch.projection import project
from robe_numba.torch.reader import RobeReader
from robe_numba.torch.rows import read_rows


class RobeEmbedding(RobeReader):
    """An embedding table that is read from a shared array; takes the place of `nn.Embedding`.

    Parameters
    ----------
    num_embeddings : int or None
        Rows of the table; an id outside it is an error. With None any 64-bit id is legal.
    embedding_dim : int
        d, elements of one embedding.
    padding_idx : int, optional
        An id whose embedding is 0 and which has no gradient.
    max_norm, norm_type, scale_grad_by_freq, sparse, _weight, _freeze
        Accepted where they ask for nothing: a hashed table cannot have them.
    device, dtype
        Of the array.
    **options
        See `Options`. By default the array is 100 times smaller than the table.

    Raises
    ------
    TypeError, ValueError
        An option is unknown, out of range or cannot be had; the message says what to use instead.
    AssertionError, RuntimeError
        torch's own, where torch refuses the arguments.

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
            # Takes no memory, and raises torch's own errors.
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
        """A module whose array approximates a trained table (num_embeddings, d); see `project`."""
        refuse_options(max_norm, scale_grad_by_freq, sparse)
        rows, dim = embeddings.shape
        like: Any = _like(embeddings, options)
        module = cls(rows, dim, padding_idx, **like)
        return _filled(module, embeddings, freeze)

    def forward(self, input: Tensor) -> Tensor:
        """Look ids up.

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
            As `nn.Embedding`: an id outside the table (not checked on a GPU), or another dtype.
        """
        return read_rows(self.array, input, self._spec_text, self.padding_idx)

    def extra_repr(self) -> str:
        return self._describe(self.num_embeddings, padding_idx=self.padding_idx)


class RobeEmbeddingBag(RobeReader):
    """Pooled rows of a table that is read from a shared array; takes the place of
    `nn.EmbeddingBag`.

    Parameters
    ----------
    num_embeddings, embedding_dim, device, dtype, **options
        As for `RobeEmbedding`.
    mode : {"sum", "mean", "max"}
        How the embeddings of a bag are pooled.
    include_last_offset : bool
        Whether offsets end with the number of ids.
    padding_idx : int, optional
        An id that is left out of every bag, and out of the count of "mean".
    max_norm, norm_type, scale_grad_by_freq, sparse, _weight
        Accepted where they ask for nothing: a hashed table cannot have them.

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
        """A module whose array approximates a trained table (num_embeddings, d); see `project`."""
        refuse_options(max_norm, scale_grad_by_freq, sparse)
        rows, dim = embeddings.shape
        like: Any = _like(embeddings, options)
        module = cls(
            rows,
            dim,
            mode=mode,
            include_last_offset=include_last_offset,
            padding_idx=padding_idx,
            **like,
        )
        return _filled(module, embeddings, freeze)

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
            Ids. Each row of a matrix is a bag; so is each row of a nested tensor.
        offsets : Tensor, (batch,) or (batch + 1,), int32 or int64
            Where each bag of a vector begins; needed with it alone.
        per_sample_weights : Tensor, of the shape of `input` and the dtype of the array, optional
            Factor of each id; with mode "sum" alone.

        Returns
        -------
        Tensor, (batch, d) of the array's dtype
            Empty bags are 0.

        Raises
        ------
        ValueError, NotImplementedError, RuntimeError
            As `nn.EmbeddingBag`. Ids and offsets are not checked on a GPU.
        """
        if are_single(self, input, offsets, per_sample_weights):
            try:
                return read_rows(self.array, input, self._spec_text, self.padding_idx).squeeze(1)
            except IndexError as error:  # what torch raises for rows
                raise RuntimeError(str(error)) from None
        bags = bags_of(self, input, offsets, per_sample_weights)
        pooled = read_bags(self.array, *bags, self._spec_text, self.mode, self.padding_idx)
        return pooled.squeeze(1)

    def extra_repr(self) -> str:
        return self._describe(
            self.num_embeddings,
            mode=self.mode,
            padding_idx=self.padding_idx,
            include_last_offset=self.include_last_offset or None,
        )


class RobeTables(RobeReader):
    """All tables of a model in one module, which reads them in one call.

    Parameters
    ----------
    num_tables : int
        T, categorical features.
    embedding_dim : int
        d, elements of one embedding.
    num_embeddings : sequence of int, optional
        Rows of each table; an id outside its table is an error. With None any 64-bit id is legal,
        and the size of the array must be given.
    device, dtype
        Of the array.
    **options
        See `Options`.

    Raises
    ------
    TypeError, ValueError
        An option is unknown or out of range.
    """

    def __init__(
        self,
        num_tables: int,
        embedding_dim: int,
        num_embeddings: Sequence[int] | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
        **options: Unpack[Options],
    ):
        sizes = None if num_embeddings is None else tuple(num_embeddings)
        super().__init__(*array_and_spec(num_tables, embedding_dim, sizes, device, dtype, options))

    @classmethod
    def from_spec(cls, spec: RobeSpec, array: RobeArray | None = None) -> Self:
        """The tables of a spec, which read the given array or a new one."""
        module = cls.__new__(cls)
        RobeReader.__init__(module, array or RobeArray(spec.array_size), spec)
        return module

    @property
    def num_tables(self) -> int:
        """T."""
        return self.spec.num_tables

    def forward(self, indices: Tensor) -> Tensor:
        """Look up one id per table.

        Parameters
        ----------
        indices : Tensor, (..., num_tables), int32 or int64
            Ids.

        Returns
        -------
        Tensor, (..., num_tables, d) of the array's dtype

        Raises
        ------
        TypeError, ValueError
            Another dtype or shape, or an id outside its table (not checked on a GPU).
        """
        return read_rows(self.array, indices, self._spec_text, None)

    def bags(
        self,
        values: Tensor,
        offsets: Tensor,
        mode: str = "sum",
        per_sample_weights: Tensor | None = None,
        padding_idx: int | None = None,
    ) -> Tensor:
        """Pool bags of ids, table-major as in FBGEMM and TorchRec.

        Parameters
        ----------
        values : Tensor, (n,), int32 or int64
            Ids of all bags.
        offsets : Tensor, (num_tables * batch + 1,), int32 or int64
            Bag t * batch + b, of table t and sample b, is values[offsets[bag]:offsets[bag + 1]].
        mode : {"sum", "mean", "max"}
            How embeddings are pooled.
        per_sample_weights : Tensor, (n,) of the dtype of the array, optional
            Factor of each id; with "sum" alone.
        padding_idx : int, optional
            An id that is left out of every bag, and out of the count of "mean".

        Returns
        -------
        Tensor, (batch, num_tables, d) of the array's dtype
            Empty bags are 0.

        Raises
        ------
        TypeError, ValueError
            As `robe_numba.embedding_bag`.
        """
        arguments = (values, offsets, per_sample_weights, self._spec_text, mode, padding_idx)
        return read_bags(self.array, *arguments)

    def extra_repr(self) -> str:
        return str(self.spec)


def _like(table: Tensor, options: Options) -> dict[str, Any]:
    """The options, and unless an array is among them the device and dtype of a table."""
    if "array" in options:
        return dict(options)
    return {"device": table.device, "dtype": table.dtype, **options}


def _filled(module: Any, table: Tensor, freeze: bool) -> Any:
    """The module, whose array approximates a table from now on."""
    if freeze and module.array.optimizer is not None:
        raise ValueError("freeze is True, but the array has an optimizer, which steps; use False")
    project({module: table})
    return module.requires_grad_(False) if freeze else module
