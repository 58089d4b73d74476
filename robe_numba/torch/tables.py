"""All tables of a model in one module."""

from collections.abc import Sequence
from typing import Any, Self, Unpack

import torch
from torch import Tensor

from robe_numba.checks.bags import check_mode
from robe_numba.spec import RobeSpec
from robe_numba.torch.array import RobeArray
from robe_numba.torch.bags import read_bags
from robe_numba.torch.reader import Options, RobeReader, array_and_spec
from robe_numba.torch.rows import read_rows


class RobeTables(RobeReader):
    """All embedding tables of a model in one module, which reads them in one call.

    Parameters
    ----------
    num_tables : int
        T, one for each categorical feature.
    embedding_dim : int
        d, elements of one embedding.
    num_embeddings : sequence of int, optional
        Rows of each table; an id outside its table is an error. With None, any 64-bit id is
        allowed, and `array_size` or `array` must be given.
    device, dtype
        Of the array.
    **options
        See `robe_numba.torch.reader.Options`.

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
        """The tables that a `RobeSpec` describes, reading the given array or a new one."""
        module = cls.__new__(cls)
        RobeReader.__init__(module, array or RobeArray(spec.array_size), spec)
        return module

    @property
    def num_tables(self) -> int:
        """T, the number of tables."""
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
            The dtype or shape is wrong, or an id is outside its table (not checked on a GPU).
        """
        return read_rows(self.array, indices, self._spec_text, None, self.training)

    def bags(
        self,
        values: Tensor,
        offsets: Tensor,
        mode: str = "sum",
        per_sample_weights: Tensor | None = None,
        padding_idx: int | None = None,
    ) -> Tensor:
        """Pool bags of ids, which are table-major as in FBGEMM and TorchRec.

        Parameters
        ----------
        values : Tensor, (n,), int32 or int64
            Ids of all bags.
        offsets : Tensor, (num_tables * batch + 1,), int32 or int64
            Bag t * batch + b, of table t and sample b, is values[offsets[bag]:offsets[bag + 1]].
        mode : {"sum", "mean", "max"}
            How embeddings are pooled.
        per_sample_weights : Tensor, (n,) of the dtype of the array, optional
            A factor for each id; only with mode "sum".
        padding_idx : int, optional
            An id that is left out of every bag, and out of the count of "mean".

        Returns
        -------
        Tensor, (batch, num_tables, d) of the array's dtype
            Empty bags are 0.

        Raises
        ------
        TypeError, ValueError
            As for `robe_numba.embedding_bag`.
        """
        check_mode(mode)  # one for all tables: operators take no sequence
        arguments = (values, offsets, per_sample_weights, self._spec_text, mode, padding_idx)
        return read_bags(self.array, *arguments, self.training)

    def extra_repr(self) -> str:
        return self._describe(self.num_tables, num_embeddings=self.spec.num_embeddings)
