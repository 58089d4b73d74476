"""The lists of one multi-hot column on their way into a shard."""

import numpy as np

from data_tools.batch import Lists


class ListBuffer:
    """Collect the lists of a block of rows.

    Parameters
    ----------
    dtype : numpy dtype
        Of the ids.
    weighted : bool
        Whether they have weights.
    block_rows : int
        Most rows at a time.
    max_length : int or None
        Only the last ids of a longer list are kept.

    Attributes
    ----------
    ids, longest, shortened : int
        Ids so far, those of the longest list, and lists that were shortened.
    """

    def __init__(self, dtype: str, weighted: bool, block_rows: int, max_length: int | None) -> None:
        self.ids = self.longest = self.shortened = 0
        self._values = np.empty(0, dtype)
        self._weights = np.empty(0, np.float32) if weighted else None
        self._offsets = np.zeros(block_rows + 1, np.int64)
        self._max_length = max_length

    def append(self, lists: Lists, filled: int) -> None:
        """Copy lists in, behind those of the `filled` rows that are there."""
        if self._max_length is not None:
            lists, shortened = last_ids(lists, self._max_length)
            self.shortened += shortened
        first, last = int(lists.offsets[0]), int(lists.offsets[-1])
        begin = int(self._offsets[filled])
        end = begin + last - first
        if end > len(self._values):
            self._grow(begin, end)
        self._values[begin:end] = lists.values[first:last]
        if self._weights is not None and lists.weights is not None:
            self._weights[begin:end] = lists.weights[first:last]
        count = len(lists.offsets) - 1
        self._offsets[filled + 1 : filled + 1 + count] = lists.offsets[1:] + (begin - first)
        self.ids += last - first
        self.longest = max(self.longest, int(np.diff(lists.offsets).max(initial=0)))

    def _grow(self, used: int, needed: int) -> None:
        """Make room for `needed` ids, at least twice that before, so that growing is rare."""
        room = max(needed, 2 * len(self._values))
        self._values, old = np.empty(room, self._values.dtype), self._values
        self._values[:used] = old[:used]
        if self._weights is not None:
            self._weights, old = np.empty(room, np.float32), self._weights
            self._weights[:used] = old[:used]

    def first(self, rows: int) -> Lists:
        """Lists of the first rows; they are overwritten by what is appended next."""
        end = self._offsets[rows]
        weights = None if self._weights is None else self._weights[:end]
        return Lists(self._values[:end], self._offsets[: rows + 1], weights)


def last_ids(lists: Lists, most: int) -> tuple[Lists, int]:
    """Only the last `most` ids of each list, and the number of lists that had more."""
    lengths = np.diff(lists.offsets)
    longer = int(np.count_nonzero(lengths > most))
    if not longer:
        return lists, 0
    kept = np.minimum(lengths, most)
    offsets = np.concatenate([[0], np.cumsum(kept, dtype=np.int64)])
    places = np.repeat(lists.offsets[1:] - offsets[1:], kept) + np.arange(offsets[-1])
    weights = None if lists.weights is None else lists.weights[places]
    return Lists(lists.values[places], offsets, weights), longer
