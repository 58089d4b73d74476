"""The blocks of a dataset's shards, and the rows of a part of the dataset in each."""

from collections.abc import Sequence

import numpy as np

from data_tools.batch import Rows, ShardReader
from data_tools.rows import take

# The parts of the four rows in each possible byte of labels.
_PART_OF_ROWS = np.arange(256)[:, None] >> np.array([0, 2, 4, 6]) & 3


class Blocks:
    """All blocks of a dataset, of whose rows a part of it has some or all.

    Parameters
    ----------
    readers : sequence of ShardReader
        All shards of the dataset.
    labels : ndarray, uint8, optional
        The part of each row as `row_parts` returns it. None: the part is the whole dataset.
    part : int
        Which part.

    Attributes
    ----------
    ends : ndarray, (num_blocks,) int64
        Where each block ends, in rows of the part.
    """

    def __init__(
        self, readers: Sequence[ShardReader], labels: np.ndarray | None = None, part: int = 0
    ) -> None:
        self._readers, self._labels = readers, labels
        # Which of a byte's four rows are in the part, as one word: a look-up gives four booleans.
        self._in_part = np.equal(_PART_OF_ROWS, part).view(np.uint32).ravel()
        self._first_blocks = np.cumsum([0, *(len(r.block_rows) for r in readers)])  # of each reader
        sizes = np.concatenate([np.empty(0, np.int64), *(r.block_rows for r in readers)])
        self._row_ends = self.ends = np.cumsum(sizes)
        if labels is not None:
            counts = [len(self._members(block)) for block in range(len(sizes))]
            self.ends = np.cumsum(counts, dtype=np.int64)

    @property
    def num_rows(self) -> int:
        """Rows of the part."""
        return int(self.ends[-1]) if len(self.ends) else 0

    def read(self, block: int, begin: int, end: int) -> Rows:
        """Read rows `begin` to `end - 1` of those that the part has of a block, at least one."""
        reader = int(np.searchsorted(self._first_blocks, block, side="right")) - 1
        rows = self._readers[reader].read(block - int(self._first_blocks[reader]))
        if self._labels is None:
            return take(rows, slice(begin, end))
        return take(rows, self._members(block)[begin:end])

    def _members(self, block: int) -> np.ndarray:
        """Rows of a block that are in the part, counted from the block's first."""
        assert self._labels is not None
        first, end = int(self._row_ends[block - 1]) if block else 0, int(self._row_ends[block])
        packed = self._labels[first // 4 : -(-end // 4)]
        in_part = np.take(self._in_part, packed).view(bool)
        return np.flatnonzero(in_part[first % 4 :][: end - first])
