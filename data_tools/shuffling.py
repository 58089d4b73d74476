"""An order of rows that is random and can be read from a disk: blocks are shuffled, then rows.

A permutation of all rows would read each from another place. Here the blocks of a log (some
thousand consecutive rows) are put into a random order; so many consecutive ones as have about
`WINDOW_ROWS` rows are read, each at once; and the rows of such a window are permuted. If all rows
fit into one window, that is a permutation of all of them.
"""

import numpy as np

from data_tools.batch import Batch, concatenate

WINDOW_ROWS = 1 << 18  # 42 MB for Criteo, 32 blocks of 8192 rows


class Shuffle:
    """The order of one epoch. It depends on the arguments alone.

    Parameters
    ----------
    block_rows : int64 (num_blocks,)   Rows of each block, each at least 1.
    seed, epoch : int                  Not negative.

    Attributes
    ----------
    windows : list of int64 arrays     The blocks of each window, in the order of their reading.
    window_rows : int64 (num_windows,) Rows of each window.
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

    def mix(self, window: int, parts: list[Batch]) -> Batch:
        """Permute the rows of a window, whose blocks are `parts`."""
        rows = int(self.window_rows[window])
        return concatenate(parts, self._generator(window + 1).permutation(rows))

    def _generator(self, number: int) -> np.random.Generator:
        # The seed comes last, because it may be of several words; (0, seed) divides datasets.
        epoch, seed = self._key
        return np.random.default_rng((1, epoch, number, seed))
