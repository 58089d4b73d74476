"""A part of a dataset, and its mini-batches in order or shuffled."""

from collections.abc import Callable, Generator, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from data_tools.batch import Batch, Rows
from data_tools.loader.blocks import Blocks
from data_tools.loader.peers import Cuts, Peers, SharedWindows
from data_tools.loader.read_ahead import read_ahead, stream
from data_tools.loader.shuffle import Shuffle
from data_tools.rows import batch_of, concatenate
from robe_numba._share_of import share_of

if TYPE_CHECKING:
    from data_tools.loader.expansion import Expansion  # compiled code

UNSORTED_IDS = 1 << 20  # ids to collect, at least, before they are sorted


class Split:
    """Some rows of a dataset, made by `Dataset.split`. They need not fit the memory.

    A split holds numbers for each block of the dataset, none for each row.

    Parameters
    ----------
    blocks : Blocks
        The blocks of the dataset, and the part of it that these rows are of.
    rows : range
        Which rows of that part.
    empty : Rows
        No rows, of the widths and types of the dataset's files.
    expansion : Expansion, optional
        Makes lists of single ids, batch by batch; what is read ahead and sent has single ids.
    """

    def __init__(
        self, blocks: Blocks, rows: range, empty: Rows, expansion: "Expansion | None" = None
    ) -> None:
        self._blocks, self._rows, self._empty = blocks, rows, empty
        self._expansion = expansion
        ends = np.clip(blocks.ends, rows.start, rows.stop) - rows.start
        counts = np.diff(ends, prepend=0)
        self._numbers = np.flatnonzero(counts)  # of the blocks that have any of the rows
        self._counts = counts[self._numbers]
        self._ends = ends[self._numbers]  # of each of these blocks, in the split
        # Rows of the part that the first block has before the split begins.
        first = int(self._numbers[0]) if len(self._numbers) else 0
        self._skipped = rows.start - (int(blocks.ends[first - 1]) if first else 0)

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
        first: int = 0,
        threads: int = 1,
        peers: Peers | None = None,
    ) -> Generator[Batch, None, None]:
        """Iterate over all rows once, in mini-batches.

        Parameters
        ----------
        batch_size : int
            Rows of every batch but the last, which may have fewer.
        shuffle_seed : int or None
            None: in order, and read-only views of the files where a batch is within one block
            that is mapped. Else shuffled as `shuffle.py` says; the order depends on the rows, the
            sizes of the blocks, the seed and the epoch alone.
        epoch : int
            Each epoch has its own order.
        drop_last : bool
            Leave out a last batch of fewer rows.
        first : int
            Begin with this batch, counted from 0; nothing before it is read.
        threads : int
            Threads that read and mix ahead of the caller; with 0 the caller's own does it. At most
            `threads` + 1 windows of `shuffle.WINDOW_ROWS` rows, with all ids of their lists, exist
            at a time; without a shuffle, as many blocks. A batch that is kept keeps its window or
            block.
        peers : Peers or None
            Processes that share the batches. All numbers mean whole batches; each process gets its
            own rows of each, maybe none of the last, and reads about as many. All have to call this
            alike, take as many batches, and close one iterator before they begin another.

        Yields
        ------
        Batch
            With peers, rows `share_of(B, rank, size)` of the batch of B rows that comes without
            them. The threads end with the last batch, or when the iterator is closed or deleted.

        Raises
        ------
        ValueError
            Batch_size is below 1 or the number of peers, or another number is negative; or peers
            without a seed, or with other than one thread.
        RuntimeError
            (from the iterator) a peer could not read its rows.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
        numbers = {"shuffle_seed": shuffle_seed, "epoch": epoch, "first": first, "threads": threads}
        for name, number in numbers.items():
            if number is not None and number < 0:
                raise ValueError(f"{name} is {number}; it must not be negative")
        if peers is not None:
            _check_sharing(batch_size, shuffle_seed, threads, peers.size)
        stop = self.num_rows - self.num_rows % batch_size if drop_last else self.num_rows
        start = min(first * batch_size, stop)
        if shuffle_seed is None:
            cuts = Cuts(self._ends, batch_size, start, stop)
            return stream(
                lambda block: self._read(block, cuts.wanted(block)), cuts, threads, self._batch
            )
        shuffle = Shuffle(self._counts, shuffle_seed, epoch)
        ends = np.cumsum(shuffle.window_rows)
        if peers is None or peers.size == 1:
            cuts = Cuts(ends, batch_size, start, stop)
            return stream(self._mixed(shuffle, cuts), cuts, threads, self._batch)
        cuts = Cuts(ends, batch_size, start, stop, peers.rank, peers.size)
        stretch = partial(self._stretch, shuffle)
        windows = SharedWindows(peers, shuffle, cuts, stretch, self._empty)
        return stream(windows.read, cuts, threads, self._batch)

    def part(self, rank: int, size: int) -> "Split":
        """One of `size` equal parts of the rows, which keep their order; parts differ by one row.

        Parameters
        ----------
        rank : int
            Which part, from 0 to size - 1.
        size : int
            Number of parts.

        Raises
        ------
        ValueError
            There is no such part.
        """
        if not 0 <= rank < size:
            raise ValueError(f"rank is {rank} of {size} parts; it must be from 0 to size - 1")
        mine = share_of(self.num_rows, rank, size)
        return Split(self._blocks, self._rows[mine.start : mine.stop], self._empty, self._expansion)

    def labels(self) -> np.ndarray:
        """Labels of all rows in order, float32 (num_rows,).

        Raises
        ------
        ValueError
            The dataset is unlabelled.
        """
        if self._empty.labels is None:
            raise ValueError("the dataset has no labels; ingest a labelled log")
        labels = np.empty(self.num_rows, np.float32)
        done = 0
        for part in self._parts():
            labels[done : done + len(part.dense)] = part.labels
            done += len(part.dense)
        return labels

    def unique_ids(self, column: int) -> np.ndarray:
        """Sorted distinct ids of one feature, in the dtype of `Batch.indices`.

        Parameters
        ----------
        column : int
            Of `Schema.features`: the categorical columns, then the multi-hot ones.

        Raises
        ------
        IndexError
            There is no such column.
        """
        width, lists = self._empty.indices.shape[1], len(self._empty.lists)
        if not 0 <= column < width + lists:
            raise IndexError(
                f"column is {column}, but there are {width} categorical columns"
                + f" and {lists} multi-hot ones" * (lists > 0)
            )
        none = np.empty(0, self._empty.indices.dtype)
        expansion = self._expansion
        if expansion is not None and column < width:
            column = expansion.columns[column]
        found = _distinct((_ids_of(part, column) for part in self._parts()), none)
        if expansion is not None and column < width:
            return expansion.distinct(found, column)
        return found

    def _batch(self, rows: Rows) -> Batch:
        """The rows as the caller gets them."""
        return batch_of(rows if self._expansion is None else self._expansion.rows(rows))

    def _parts(self) -> Iterator[Rows]:
        """The rows in order, block by block."""
        return read_ahead(self._read, range(len(self._numbers)), threads=1)

    def _read(self, number: int, wanted: slice = slice(None)) -> Rows:
        """The split's rows of a block, or those `wanted` of them: consecutive, and at least one.

        `number` counts only the blocks that have any rows of the split.
        """
        begin, end, _ = wanted.indices(int(self._counts[number]))
        skipped = 0 if number else self._skipped
        return self._blocks.read(int(self._numbers[number]), skipped + begin, skipped + end)

    def _mixed(self, shuffle: Shuffle, cuts: Cuts) -> Callable[[int], Rows]:
        """A function that reads a window of given number and mixes its rows."""
        return lambda window: concatenate(
            [self._read(number) for number in shuffle.windows[window].tolist()],
            shuffle.order(window)[cuts.wanted(window)],
        )

    def _stretch(self, shuffle: Shuffle, window: int, rows: range) -> list[Rows]:
        """Consecutive rows of a window that is not mixed; only blocks that have any are read."""
        blocks = shuffle.windows[window]
        ends = np.cumsum(self._counts[blocks])
        first, last = np.searchsorted(ends, (rows.start, rows.stop - 1), side="right").tolist()
        parts = [self._empty]
        for block in range(first, last + 1) if rows else ():
            start = int(ends[block] - self._counts[blocks[block]])
            wanted = slice(max(rows.start - start, 0), rows.stop - start)
            parts.append(self._read(int(blocks[block]), wanted))
        return parts


def _check_sharing(batch_size: int, shuffle_seed: int | None, threads: int, size: int) -> None:
    """Refuse batches that peers cannot share."""
    if shuffle_seed is None:
        raise ValueError(
            "shuffle_seed is None, but peers share shuffled batches alone; give a seed, or each "
            "peer its Split.part in order"
        )
    if threads != 1:
        raise ValueError(
            f"threads is {threads}, but peers exchange one window after another; use threads=1"
        )
    if batch_size < size:
        raise ValueError(
            f"batch_size is {batch_size}, but each of {size} peers needs rows of a batch; "
            f"use batch_size >= {size}"
        )


def _ids_of(rows: Rows, column: int) -> np.ndarray:
    """All ids of one feature, (n,)."""
    if column < rows.indices.shape[1]:
        return rows.indices[:, column]
    lists = rows.lists[column - rows.indices.shape[1]]
    return lists.values[int(lists.offsets[0]) : int(lists.offsets[-1])]


def _distinct(parts: Iterable[np.ndarray], none: np.ndarray) -> np.ndarray:
    """Sorted distinct ids of all parts, in the dtype of `none`, which is empty."""
    collected = [none]  # the distinct ids so far, then others
    waiting, limit = 0, UNSORTED_IDS
    for ids in parts:
        collected.append(ids.copy())
        waiting += len(ids)
        # Wait for as many new ids as are known, so that each id is sorted only a few times.
        if waiting >= limit:
            collected = [_sorted(collected)]
            waiting, limit = 0, max(UNSORTED_IDS, collected[0].size)
    return _sorted(collected)


def _sorted(parts: list[np.ndarray]) -> np.ndarray:
    """Sorted distinct ids of some arrays.

    `numpy.unique` has a hash table, which takes a hundred times as long where most ids differ.
    """
    ids = np.concatenate(parts)
    ids.sort()
    new = np.ones(len(ids), bool)
    np.not_equal(ids[1:], ids[:-1], out=new[1:])
    return ids[new]
