"""Rows of a click log as NumPy arrays: as they are stored and shuffled, and as a mini-batch."""

from typing import NamedTuple, Protocol

import numpy as np


class Batch(NamedTuple):
    """A mini-batch of B rows.

    Attributes
    ----------
    labels : ndarray, (B,) float32
        0 or 1; None where the log is unlabelled.
    dense : ndarray, (B, num_dense) float32
        C-contiguous.
    indices : ndarray, (B, num_categorical) uint
        C-contiguous; uint32 for Criteo text, else uint64.
    values : ndarray, (n,) of the dtype of `indices`
        Ids of the multi-hot features; None where the log has none, as the next two.
    offsets : ndarray, (num_multi_hot * B + 1,) int64
        Table-major: the ids of feature t in row b are
        values[offsets[t * B + b]:offsets[t * B + b + 1]].
    weights : ndarray, (n,) float32
        Of the ids, 1 for features without weights; None where no feature has weights.
    """

    labels: np.ndarray | None
    dense: np.ndarray
    indices: np.ndarray
    values: np.ndarray | None = None
    offsets: np.ndarray | None = None
    weights: np.ndarray | None = None

    @property
    def multi_hot(self) -> tuple[np.ndarray, np.ndarray, np.ndarray | None] | None:
        """(values, offsets, weights) as `DLRM` takes them; None for a log without lists."""
        if self.values is None or self.offsets is None:
            return None
        return self.values, self.offsets, self.weights


class Lists(NamedTuple):
    """A list of ids for each of some rows: one multi-hot feature.

    Attributes
    ----------
    values : ndarray, (n,) uint
        Ids.
    offsets : ndarray, (rows + 1,) int32 or int64
        The ids of row i are values[offsets[i]:offsets[i + 1]]. The first offset may be above 0.
    weights : ndarray, (n,) float32
        Of the ids; None for a feature without weights.
    """

    values: np.ndarray
    offsets: np.ndarray
    weights: np.ndarray | None = None


class Rows(NamedTuple):
    """Some rows of a click log: a shard's block, or a part of a table.

    Attributes
    ----------
    labels, dense, indices : ndarray
        As of `Batch`.
    lists : tuple of Lists
        The multi-hot features.
    """

    labels: np.ndarray | None
    dense: np.ndarray
    indices: np.ndarray
    lists: tuple[Lists, ...] = ()


class ShardReader(Protocol):
    """One file of a dataset, of any format, read in blocks of consecutive rows.

    Attributes
    ----------
    block_rows : ndarray, (num_blocks,) int64
        Rows of each block, each at least 1.
    """

    @property
    def block_rows(self) -> np.ndarray:
        """Rows of each block."""

    def read(self, block: int) -> Rows:
        """Read one block, counted from 0; several threads may read at a time.

        Returns
        -------
        Rows
            Read-only views of a mapped file where its format allows, else new arrays.
        """
