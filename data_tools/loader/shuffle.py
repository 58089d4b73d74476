"""A random order of rows that a disk can read fast: blocks are shuffled, then rows.

A permutation of all rows would read each row from another place. Instead, the blocks of a log (some
thousand consecutive rows) are put into a random order. Consecutive blocks of that order, with about
`WINDOW_ROWS` rows in all, form a window. A window is read, and its rows are permuted. If all rows
fit into one window, that is a permutation of all of them.
"""

import numpy as np

WINDOW_ROWS = 1 << 18  # 42 MB for Criteo, 32 blocks of 8192 rows


class Shuffle:
    """The order of one epoch. It depends on the arguments alone.

    Parameters
    ----------
    block_rows : ndarray, (num_blocks,) int64
        Rows of each block, each at least 1.
    seed, epoch : int
        Not negative.

    Attributes
    ----------
    windows : list of int64 arrays
        The blocks of each window, in the order of their reading.
    window_rows : ndarray, (num_windows,) int64
        Rows of each window.
    """

    def __init__(self, block_rows: np.ndarray, seed: int, epoch: int) -> None:
        self._key = (epoch, seed)
        blocks = self._generator(0).permutation(len(block_rows))
        rows = block_rows[blocks]
        starts = np.cumsum(rows) - rows
        # Windows of equal size: a small rest would be a window of a single block.
        total = int(rows.sum())
        number = -(-total // WINDOW_ROWS)
        cuts = np.flatnonzero(np.diff(starts * number // max(total, 1))) + 1
        self.windows = np.split(blocks, cuts) if total else []
        self.window_rows = np.diff(starts[cuts], prepend=0, append=total)[: len(self.windows)]

    def order(self, window: int) -> np.ndarray:
        """The order, int64 (window_rows,), into which the rows of a window are put."""
        return self._generator(window + 1).permutation(int(self.window_rows[window]))

    def _generator(self, number: int) -> np.random.Generator:
        # The seed comes last, because it may be of several words; (0, seed) divides datasets.
        epoch, seed = self._key
        return np.random.default_rng((1, epoch, number, seed))
