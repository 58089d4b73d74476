"""Rows as NumPy arrays: a shard, a part of a table, a mini-batch."""

from typing import NamedTuple

import numpy as np


class Batch(NamedTuple):
    """Some rows of a click log.

    Attributes
    ----------
    labels : float32 (B,)                      0 or 1; None where the log is unlabelled.
    dense : float32 (B, num_dense)             C-contiguous.
    indices : uint (B, num_categorical)        C-contiguous; uint32 for Criteo text, else uint64.
    """

    labels: np.ndarray | None
    dense: np.ndarray
    indices: np.ndarray


def take(batch: Batch, selected: slice | np.ndarray) -> Batch:
    """Select rows of `batch`: views where `selected` is a slice, else copies."""
    labels = None if batch.labels is None else batch.labels[selected]
    return Batch(labels, batch.dense[selected], batch.indices[selected])


def concatenate(parts: list[Batch]) -> Batch:
    """Join one or more batches of one log."""
    labels = [part.labels for part in parts if part.labels is not None]
    return Batch(
        np.concatenate(labels) if labels else None,
        np.concatenate([part.dense for part in parts]),
        np.concatenate([part.indices for part in parts]),
    )
