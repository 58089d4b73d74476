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


def take(rows: Rows, selected: slice | np.ndarray) -> Rows:
    """Select rows: views where `selected` is a slice, else copies."""
    labels = None if rows.labels is None else _take(rows.labels, selected)
    lists = tuple(_take_lists(each, selected) for each in rows.lists)
    return Rows(labels, _take(rows.dense, selected), _take(rows.indices, selected), lists)


def concatenate(parts: list[Rows], order: np.ndarray | None = None) -> Rows:
    """Join one or more parts of one log, then select rows of the whole in the given order.

    `order` has each row at most once.
    """
    labels = [part.labels for part in parts if part.labels is not None]
    features = zip(*(part.lists for part in parts), strict=True)
    return Rows(
        _join(labels, order) if labels else None,
        _join([part.dense for part in parts], order),
        _join([part.indices for part in parts], order),
        tuple(_join_lists(list(feature), order) for feature in features),
    )


def batch_of(rows: Rows) -> Batch:
    """The rows as a mini-batch, with the lists of all features side by side.

    The ids of a single feature are not copied.
    """
    if not rows.lists:
        return Batch(rows.labels, rows.dense, rows.indices)
    lists = _side_by_side([_own_ids(each) for each in rows.lists])
    return Batch(rows.labels, rows.dense, rows.indices, *lists)


def _own_ids(lists: Lists) -> Lists:
    """The same lists with offsets from 0, and no ids besides theirs."""
    first, last = int(lists.offsets[0]), int(lists.offsets[-1])
    if not first and last == len(lists.values):
        return lists
    weights = None if lists.weights is None else lists.weights[first:last]
    return Lists(lists.values[first:last], lists.offsets - first, weights)


def _side_by_side(parts: list[Lists]) -> Lists:
    """Lists with offsets from 0, one part after the other; offsets become int64."""
    ends = np.cumsum([0, *(len(part.values) for part in parts)])
    starts = [part.offsets[:-1] + end for part, end in zip(parts, ends[:-1], strict=True)]
    offsets = np.concatenate([*starts, ends[-1:]])
    if len(parts) == 1:
        return parts[0]._replace(offsets=offsets)
    weights = None
    if any(part.weights is not None for part in parts):
        weights = np.concatenate([_weights(part) for part in parts])
    return Lists(np.concatenate([part.values for part in parts]), offsets, weights)


def _weights(lists: Lists) -> np.ndarray:
    return np.ones(len(lists.values), np.float32) if lists.weights is None else lists.weights


def _take_lists(lists: Lists, selected: slice | np.ndarray) -> Lists:
    if not isinstance(selected, slice):
        return _join_lists([lists], selected)
    first, last, _ = selected.indices(len(lists.offsets) - 1)
    return lists._replace(offsets=lists.offsets[first : max(first, last) + 1])


def _join_lists(parts: list[Lists], order: np.ndarray | None) -> Lists:
    if order is None:
        return _side_by_side([_own_ids(part) for part in parts])
    from data_tools.gather import gather_lists  # compiled code

    return gather_lists(parts, order)


def _take(array: np.ndarray, selected: slice | np.ndarray) -> np.ndarray:
    # Indexing by an array takes twice as long as np.take.
    return array[selected] if isinstance(selected, slice) else np.take(array, selected, axis=0)


def _join(arrays: list[np.ndarray], order: np.ndarray | None) -> np.ndarray:
    # One column at a time, so that only one exists in both orders.
    joined = np.concatenate(arrays)
    return joined if order is None else np.take(joined, order, axis=0)
