"""A part of a dataset, and its mini-batches in order or shuffled."""

from collections.abc import Iterator

import numpy as np

from data_tools.batch import Batch, concatenate, take

GATHER_ROWS = 1 << 16  # shuffled rows fetched at a time, many more than one batch


def permutation(num_rows: int, key: tuple[int, ...]) -> np.ndarray:
    """Permutation of the rows 0 to num_rows - 1 that depends on `key` alone.

    Returns
    -------
    uint32 (num_rows,), or uint64 where the rows need it.
    """
    rows = np.arange(num_rows, dtype=np.uint32 if num_rows < 2**32 else np.uint64)
    np.random.default_rng(key).shuffle(rows)
    return rows


class Split:
    """Some rows of a dataset, made by `Dataset.split`.

    Parameters
    ----------
    shards : list of Batch              All shards of the dataset, at least one.
    rows : range or uint (num_rows,)    Row numbers in the dataset, ascending.
    """

    def __init__(self, shards: list[Batch], rows: range | np.ndarray) -> None:
        self._shards = shards
        self._rows = rows
        self._ends = np.cumsum([len(shard.dense) for shard in shards], dtype=np.int64)

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return len(self._rows)

    def batches(
        self,
        batch_size: int,
        shuffle_seed: int | None = None,
        epoch: int = 0,
        drop_last: bool = False,
    ) -> Iterator[Batch]:
        """Iterate over all rows once, in mini-batches.

        Parameters
        ----------
        batch_size : int               Rows of every batch but the last, which may have fewer.
        shuffle_seed : int or None     None: in order, and read-only views of the files where a
                                       batch lies within one shard. Else a permutation of all rows
                                       that depends on the seed, the epoch and num_rows alone.
        epoch : int                    Each epoch has its own permutation.
        drop_last : bool               Leave out a last batch of fewer rows.

        Yields
        ------
        Batch

        Raises
        ------
        ValueError : batch_size is below 1, or shuffle_seed or epoch is negative.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
        if epoch < 0 or (shuffle_seed is not None and shuffle_seed < 0):
            raise ValueError(
                f"shuffle_seed is {shuffle_seed} and epoch is {epoch}; they must not be negative"
            )
        used = self.num_rows - self.num_rows % batch_size if drop_last else self.num_rows
        # A second function, so that wrong arguments are found at the call, not at the first batch.
        if shuffle_seed is None and isinstance(self._rows, range):
            return self._views(self._rows[:used], batch_size)
        return self._copies(used, batch_size, shuffle_seed, epoch)

    def labels(self) -> np.ndarray:
        """Labels of all rows in order, float32 (num_rows,).

        Raises
        ------
        ValueError : the dataset is unlabelled.
        """
        if self._shards[0].labels is None:
            raise ValueError("the dataset has no labels; ingest a labelled log")
        parts = [shard.labels[rows] for shard, rows in self._parts(self._rows)]  # type: ignore[index]
        return np.concatenate([np.empty(0, np.float32), *parts])

    def unique_ids(self, column: int) -> np.ndarray:
        """Sorted distinct ids of one categorical column, in the dtype of `Batch.indices`.

        Parameters
        ----------
        column : int     From 0 to num_categorical - 1.

        Raises
        ------
        IndexError : there is no such column.
        """
        _, width = self._shards[0].indices.shape
        if not 0 <= column < width:
            raise IndexError(f"column is {column}, but there are {width} categorical columns")
        none = np.empty(0, self._shards[0].indices.dtype)
        # Distinct per shard first: the rows of all shards need not fit the memory.
        parts = [np.unique(shard.indices[rows, column]) for shard, rows in self._parts(self._rows)]
        return np.unique(np.concatenate([none, *parts]))

    def _views(self, rows: range, batch_size: int) -> Iterator[Batch]:
        """Batches in order, copied only where they go over the end of a shard."""
        for start in range(0, len(rows), batch_size):
            parts = [
                take(shard, selected)
                for shard, selected in self._parts(rows[start : start + batch_size])
            ]
            yield parts[0] if len(parts) == 1 else concatenate(parts)

    def _copies(
        self, used: int, batch_size: int, shuffle_seed: int | None, epoch: int
    ) -> Iterator[Batch]:
        """Batches of scattered rows, many gathered at a time."""
        rows = self._rows
        if shuffle_seed is not None:
            order = permutation(self.num_rows, (1, epoch, shuffle_seed))
            rows = order + order.dtype.type(rows.start) if isinstance(rows, range) else rows[order]
        step = batch_size * max(1, GATHER_ROWS // batch_size)
        for begin in range(0, used, step):
            some = self._gather(np.asarray(rows[begin : min(begin + step, used)]))
            for start in range(0, len(some.dense), batch_size):
                yield take(some, slice(start, start + batch_size))

    def _gather(self, rows: np.ndarray) -> Batch:
        """Copy `rows`, in any order, reading each shard once and forwards."""
        order = np.argsort(rows)
        parts = [take(shard, selected) for shard, selected in self._parts(rows[order])]
        ascending = concatenate(parts)
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        return take(ascending, place)

    def _parts(self, rows: range | np.ndarray) -> Iterator[tuple[Batch, slice | np.ndarray]]:
        """Divide ascending `rows` by shard: each shard, and which of its rows."""
        if not len(rows):
            return
        first, last = np.searchsorted(self._ends, [int(rows[0]), int(rows[-1])], side="right")
        done = 0
        for number in range(first, last + 1):
            shard, end = self._shards[number], int(self._ends[number])
            start = end - len(shard.dense)
            if isinstance(rows, range):
                yield shard, slice(max(rows.start, start) - start, min(rows.stop, end) - start)
            else:
                # In the type of the rows, or they would all be converted to compare.
                cut = int(np.searchsorted(rows, rows.dtype.type(end)))
                yield shard, rows[done:cut] - start
                done = cut
