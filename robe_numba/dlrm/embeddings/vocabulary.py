"""From raw ids to the row numbers of uncompressed tables."""

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Self

import numpy as np

from robe_numba.checks.arrays import check_array
from robe_numba.checks.bags import check_bag_ids_shape, check_bags_span, check_offsets
from robe_numba.checks.ids import INDEX_DTYPES, as_uint64
from robe_numba.dlrm.backends import backend_for
from robe_numba.kernels.cpu.launch import launch, threads_for
from robe_numba.kernels.cpu.vocabulary import find_bag_rows, find_rows
from robe_numba.ops.devices import on_any_device

READS_PER_ID = 16  # of a search, about


@on_any_device("vocabulary")
def known_rows(ids: np.ndarray, offsets: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Row int64 of each id of indices (batch, num_tables), given a `Vocabulary`'s arrays."""
    num_tables = len(offsets) - 1
    check_array("indices", indices, None, INDEX_DTYPES)
    if indices.ndim != 2 or indices.shape[1] != num_tables:
        raise ValueError(f"indices has shape {indices.shape} but must be (batch, {num_tables})")
    rows = np.empty(indices.shape, np.int64)
    threads = threads_for(rows.size * READS_PER_ID)
    launch(threads, find_rows, ids, offsets, as_uint64(indices), rows)
    return rows


@on_any_device("vocabulary")
def known_bag_rows(
    ids: np.ndarray, offsets: np.ndarray, indices: np.ndarray, bag_offsets: np.ndarray
) -> np.ndarray:
    """Row int64 of each id of table-major bags, given a `Vocabulary`'s arrays."""
    num_tables = len(offsets) - 1
    check_array("indices", indices, None, INDEX_DTYPES)
    check_bag_ids_shape(indices)
    checked = check_offsets(bag_offsets, num_tables)
    check_bags_span(indices, checked)
    bounds = checked[np.arange(num_tables + 1) * ((checked.size - 1) // num_tables)]
    rows = np.empty(indices.shape, np.int64)
    threads = threads_for(rows.size * READS_PER_ID)
    launch(threads, find_bag_rows, ids, offsets, as_uint64(indices), bounds, rows, threads)
    return rows


class Vocabulary:
    """The known ids of each table. Row 0 is for unknown ids, row i for the i-th smallest id.

    Ids are compared as unsigned 64-bit words; a signed id is read as two's complement.

    Parameters
    ----------
    ids : ndarray, (num_ids,) uint64
        Table after table, strictly increasing within each.
    offsets : ndarray, (num_tables + 1,) int64
        Table t is ids[offsets[t]:offsets[t + 1]].

    Raises
    ------
    TypeError, ValueError
        Dtypes, offsets or order are not as above.
    """

    def __init__(self, ids: np.ndarray, offsets: np.ndarray):
        self._ids = check_array("ids", ids, (np.size(ids),), (np.dtype(np.uint64),))
        check_array("offsets", offsets, (np.size(offsets),), (np.dtype(np.int64),))
        self._offsets = offsets.copy()  # a copy: kernels do not check them
        sizes = np.diff(self._offsets)
        if len(sizes) < 1 or self._offsets[0] != 0 or (sizes < 0).any():
            raise ValueError("offsets must rise from 0, with one step per table")
        if self._offsets[-1] != len(self._ids):
            raise ValueError(f"offsets end at {self._offsets[-1]} but there are {len(ids)} ids")
        for table in range(len(sizes)):
            column = self._ids[self._offsets[table] : self._offsets[table + 1]]
            if (column[1:] <= column[:-1]).any():
                raise ValueError(f"ids of table {table} are not strictly increasing; use np.unique")

        self._on_device = self._ids, self._offsets

    def to(self, device: str) -> Self:
        """The same vocabulary, for ids on a device, "cpu" or "cuda"."""
        other = copy(self)
        put = backend_for(device).asarray
        other._on_device = put(self._ids), put(self._offsets)
        return other

    @classmethod
    def from_columns(cls, columns: Sequence[np.ndarray]) -> Self:
        """A vocabulary of one integer array of sorted unique ids per table."""
        for table, column in enumerate(columns):
            check_array(f"vocabulary[{table}]", column, (np.size(column),), INDEX_DTYPES)
        offsets = np.cumsum([0, *(len(column) for column in columns)], dtype=np.int64)
        ids = np.concatenate([np.empty(0, np.uint64), *(as_uint64(c) for c in columns)])
        return cls(ids, offsets)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """The inverse of `arrays()`."""
        return cls(arrays["vocabulary.ids"], arrays["vocabulary.offsets"])

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays to save: "vocabulary.ids" and "vocabulary.offsets"."""
        return {"vocabulary.ids": self._ids, "vocabulary.offsets": self._offsets.copy()}

    @property
    def num_embeddings(self) -> tuple[int, ...]:
        """Rows of each table: its ids and the row of unknown ids."""
        return tuple(int(size) + 1 for size in np.diff(self._offsets))

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """Look up the row of each id.

        Parameters
        ----------
        indices : ndarray, (batch, num_tables) int32, int64, uint32 or uint64
            On the vocabulary's device.

        Returns
        -------
        ndarray, (batch, num_tables) int64
            0 where the id is unknown.

        Raises
        ------
        TypeError, ValueError
            Another dtype or shape.
        """
        return known_rows(*self._on_device, indices)

    def bag_rows(self, indices: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """Look up the row of each id of bags.

        Parameters
        ----------
        indices : ndarray, (n,) int32, int64, uint32 or uint64
            Ids of all bags, on the vocabulary's device.
        offsets : ndarray, (num_tables * batch + 1,) of such a dtype
            Table-major: bag t * batch + b, of table t and sample b, is
            indices[offsets[bag]:offsets[bag + 1]].

        Returns
        -------
        ndarray, (n,) int64
            0 where the id is unknown.

        Raises
        ------
        TypeError, ValueError
            Another dtype or shape; or, on the CPU, offsets that fall or do not span the indices.
        """
        return known_bag_rows(*self._on_device, indices, offsets)
