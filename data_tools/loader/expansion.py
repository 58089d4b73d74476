"""Lists made from single ids while they are read, as MLPerf's DLRM-DCNv2 makes them from Criteo's.

A column of size 1 stays as it is. Of a column of size k each row gets k ids: its own, then k - 1
that are drawn uniformly, with replacement, from the known ids. A draw is a hash of the seed, the
column, the row's own id and the position. So equal ids have equal lists, and none is stored.
"""

from typing import Any

import numpy as np

from data_tools.batch import Lists, Rows
from data_tools.hashing import U64, below, word_of
from data_tools.schema import Schema
from robe_numba._jit import jit

CHUNK_IDS = 1 << 20  # made at a time where lists of many ids are wanted


class Expansion:
    """How single ids become lists.

    Parameters
    ----------
    sizes : tuple of int
        Ids per row of each categorical column, each at least 1.
    known : tuple of int
        Known ids of each column, numbered from 0; at most 2**32.
    seed : int
        0 to 2**64 - 1.
    """

    def __init__(self, sizes: tuple[int, ...], known: tuple[int, ...], seed: int) -> None:
        self._sizes, self._known = sizes, known
        self._keys = [U64(word_of(U64(seed), column)) for column in range(len(sizes))]
        self._single = [column for column, size in enumerate(sizes) if size == 1]
        self._expanded = [column for column, size in enumerate(sizes) if size > 1]

    @property
    def columns(self) -> tuple[int, ...]:
        """The categorical columns in the order of `Schema.features` of the expanded schema."""
        return (*self._single, *self._expanded)

    @property
    def ids_per_row(self) -> tuple[float, ...]:
        """Ids per row of each column that becomes lists."""
        return tuple(float(self._sizes[column]) for column in self._expanded)

    def schema(self, schema: Schema) -> Schema:
        """The columns of expanded rows: single ones, then those that become lists, then lists."""
        names = schema.categorical
        weights = (*(None for _ in self._expanded), *(weights for _, weights in schema.lists))
        return Schema(
            schema.label,
            schema.dense,
            tuple(names[column] for column in self._single),
            (*(names[column] for column in self._expanded), *schema.multi_hot),
            weights,
        )

    def rows(self, rows: Rows) -> Rows:
        """Make lists of single ids."""
        lists = []
        for column in self._expanded:
            ids = self.ids(rows.indices[:, column], column)
            offsets = np.arange(len(ids) + 1, dtype=np.int64) * self._sizes[column]
            lists.append(Lists(ids.reshape(-1), offsets))
        return rows._replace(
            indices=np.take(rows.indices, self._single, axis=1), lists=(*lists, *rows.lists)
        )

    def distinct(self, own: np.ndarray, column: int) -> np.ndarray:
        """Sorted distinct ids of the lists of some ids."""
        drawn = np.zeros(max(self._known[column], 1), bool)
        step = max(CHUNK_IDS // self._sizes[column], 1)
        for begin in range(0, len(own), step):
            drawn[self.ids(own[begin : begin + step], column)[:, 1:]] = True
        return np.union1d(own, np.flatnonzero(drawn).astype(own.dtype))

    def ids(self, own: np.ndarray, column: int) -> np.ndarray:
        """The lists of some ids of a column.

        Parameters
        ----------
        own : ndarray, (n,) uint32 or uint64
        column : int
            Of the categorical columns, counted from 0.

        Returns
        -------
        ndarray, (n, size), as `own`
            In each row the id itself and those drawn for it; all 0 where no id is known.
        """
        out = np.empty((len(own), self._sizes[column]), own.dtype)
        source = own.view()
        source.flags.writeable = False  # as mapped shards are, so that one kernel serves all
        _expand(source, self._keys[column], U64(max(self._known[column], 1)), out)
        return out


@jit
def _expand(own: Any, key: Any, known: Any, out: Any) -> None:
    """Write the list of each id."""
    for row in range(own.size):
        stream = word_of(key, own[row])
        out[row, 0] = own[row]
        for place in range(1, out.shape[1]):
            out[row, place] = below(word_of(stream, place), known)
