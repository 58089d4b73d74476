"""Select and join rows of a click log, and make mini-batches of them."""

import numpy as np

from data_tools.batch import Batch, Lists, Rows


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
