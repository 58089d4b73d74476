"""Rows as NumPy arrays: a shard's blocks, a part of a table, a mini-batch."""

from typing import NamedTuple, Protocol

import numpy as np


class Batch(NamedTuple):
    """Some rows of a click log.

    Attributes
    ----------
    labels : ndarray, (B,) float32
        0 or 1; None where the log is unlabelled.
    dense : ndarray, (B, num_dense) float32
        C-contiguous.
    indices : ndarray, (B, num_categorical) uint
        C-contiguous; uint32 for Criteo text, else uint64.
    """

    labels: np.ndarray | None
    dense: np.ndarray
    indices: np.ndarray


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

    def read(self, block: int) -> Batch:
        """Read one block, counted from 0; several threads may read at a time.

        Returns
        -------
        Batch
            Read-only views of a mapped file where its format allows, else new arrays.
        """


def take(batch: Batch, selected: slice | np.ndarray) -> Batch:
    """Select rows of `batch`: views where `selected` is a slice, else copies."""
    labels = None if batch.labels is None else _take(batch.labels, selected)
    return Batch(labels, _take(batch.dense, selected), _take(batch.indices, selected))


def concatenate(parts: list[Batch], order: np.ndarray | None = None) -> Batch:
    """Join one or more batches of one log, then select rows of the whole in the given order."""
    labels = [part.labels for part in parts if part.labels is not None]
    return Batch(
        _join(labels, order) if labels else None,
        _join([part.dense for part in parts], order),
        _join([part.indices for part in parts], order),
    )


def _take(array: np.ndarray, selected: slice | np.ndarray) -> np.ndarray:
    # Indexing by an array takes twice as long as np.take.
    return array[selected] if isinstance(selected, slice) else np.take(array, selected, axis=0)


def _join(arrays: list[np.ndarray], order: np.ndarray | None) -> np.ndarray:
    # One column at a time, so that only one exists in both orders.
    joined = np.concatenate(arrays)
    return joined if order is None else np.take(joined, order, axis=0)
