"""A part of a dataset, and its mini-batches in order or shuffled."""

from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial

import numpy as np

from data_tools.batch import Batch, ShardReader, concatenate, take
from data_tools.loader.peers import Cuts, Peers, SharedWindows, share_of
from data_tools.loader.read_ahead import read_ahead, stream
from data_tools.loader.shuffle import Shuffle

UNSORTED_IDS = 1 << 20  # collected at least before they are sorted
DAYS = 7  # of a log in a single file, as in Criteo's Kaggle log


class Split:
    """Some rows of a dataset, made by `Dataset.split`. They need not fit the memory.

    Parameters
    ----------
    readers : sequence of ShardReader     All shards of the dataset.
    rows : range or uint (num_rows,)      Row numbers in the dataset, ascending.
    empty : Batch                         No rows, of the widths and types of the dataset.
    """

    def __init__(
        self, readers: Sequence[ShardReader], rows: range | np.ndarray, empty: Batch
    ) -> None:
        self._readers = readers
        self._rows = rows
        self._empty = empty
        sizes = np.concatenate([np.empty(0, np.int64), *(r.block_rows for r in readers)])
        self._first_blocks = np.cumsum([0, *(len(r.block_rows) for r in readers)])  # of each reader
        ends = np.cumsum(sizes)
        # Block b of the dataset has the split's rows cuts[b] to cuts[b + 1] - 1.
        if isinstance(rows, range):
            cuts = np.clip(ends, rows.start, rows.stop) - rows.start
        else:
            # In the type of the rows, or they would all be converted to compare.
            cuts = np.searchsorted(rows, ends.astype(rows.dtype))
        counts = np.diff(cuts, prepend=0)
        self._blocks = np.flatnonzero(counts)  # those of which the split has rows
        self._counts = counts[self._blocks]
        self._first_rows = (ends - sizes)[self._blocks]  # of each block, in the dataset
        self._ends = np.cumsum(self._counts)  # of each block, in the split

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
        batch_size : int               Rows of every batch but the last, which may have fewer.
        shuffle_seed : int or None     None: in order, and read-only views of the files where a
                                       batch lies within one block that is mapped. Else shuffled as
                                       `shuffle.py` says; the order depends on the rows,
                                       the sizes of the blocks, the seed and the epoch alone.
        epoch : int                    Each epoch has its own order.
        drop_last : bool               Leave out a last batch of fewer rows.
        first : int                    Begin with this batch, counted from 0; nothing before it is
                                       read.
        threads : int                  Threads that read and mix ahead of the caller; with 0 the
                                       caller's own does it. At most `threads` + 1 windows of
                                       `shuffle.WINDOW_ROWS` rows exist at a time, or
                                       in order blocks; a batch that is kept keeps all of its own.
        peers : Peers or None          Processes that share the batches. All numbers mean whole
                                       batches; each process gets its own rows of each, maybe none
                                       of the last, and reads about as many. All have to call this
                                       alike, take as many batches, and close one iterator before
                                       they begin another.

        Yields
        ------
        Batch     Threads end with the last one, or when the iterator is closed or forgotten. With
                  peers: rows `share_of(B, rank, size)` of the batch of B rows that comes without.

        Raises
        ------
        ValueError : batch_size is below 1 or the number of peers, or another number is negative;
            or peers without a seed, or with other than one thread.
        RuntimeError : (from the iterator) a peer could not read its rows.
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
            return stream(lambda block: self._read(block, cuts.wanted(block)), cuts, threads)
        shuffle = Shuffle(self._counts, shuffle_seed, epoch)
        ends = np.cumsum(shuffle.window_rows)
        if peers is None or peers.size == 1:
            cuts = Cuts(ends, batch_size, start, stop)
            return stream(self._mixed(shuffle, cuts), cuts, threads)
        cuts = Cuts(ends, batch_size, start, stop, peers.rank, peers.size)
        stretch = partial(self._stretch, shuffle)
        return stream(SharedWindows(peers, shuffle, cuts, stretch, self._empty).read, cuts, threads)

    def part(self, rank: int, size: int) -> "Split":
        """One of `size` equal parts of the rows, which keep their order; parts differ by one row.

        Parameters
        ----------
        rank : int     Which part, from 0 to size - 1.
        size : int     Number of parts.

        Raises
        ------
        ValueError : there is no such part.
        """
        if not 0 <= rank < size:
            raise ValueError(f"rank is {rank} of {size} parts; it must be from 0 to size - 1")
        mine = share_of(self.num_rows, rank, size)
        return Split(self._readers, self._rows[mine.start : mine.stop], self._empty)

    def labels(self) -> np.ndarray:
        """Labels of all rows in order, float32 (num_rows,).

        Raises
        ------
        ValueError : the dataset is unlabelled.
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
        """Sorted distinct ids of one categorical column, in the dtype of `Batch.indices`.

        Parameters
        ----------
        column : int     From 0 to num_categorical - 1.

        Raises
        ------
        IndexError : there is no such column.
        """
        width = self._empty.indices.shape[1]
        if not 0 <= column < width:
            raise IndexError(f"column is {column}, but there are {width} categorical columns")
        collected = [self._empty.indices[:, column]]  # the distinct ids so far, then others
        waiting, limit = 0, UNSORTED_IDS
        for part in self._parts():
            collected.append(part.indices[:, column].copy())
            waiting += len(part.dense)
            # Wait for as many as are known: so each is sorted a few times only.
            if waiting >= limit:
                collected = [_distinct(collected)]
                waiting, limit = 0, max(UNSORTED_IDS, collected[0].size)
        return _distinct(collected)

    def _parts(self) -> Iterator[Batch]:
        """The rows in order, block by block."""
        return read_ahead(self._read, range(len(self._blocks)), threads=1)

    def _read(self, number: int, wanted: slice = slice(None)) -> Batch:
        """The split's rows of a block; `number` counts the blocks of which it has any.

        Of these rows only those `wanted` are taken, consecutive ones and at least one.
        """
        block, first_row = int(self._blocks[number]), int(self._first_rows[number])
        reader = int(np.searchsorted(self._first_blocks, block, side="right")) - 1
        rows = self._readers[reader].read(block - int(self._first_blocks[reader]))
        end = int(self._ends[number])
        mine = self._rows[end - int(self._counts[number]) : end][wanted]
        if isinstance(mine, range):
            return take(rows, slice(mine.start - first_row, mine.stop - first_row))
        return take(rows, mine.astype(np.intp) - first_row)

    def _mixed(self, shuffle: Shuffle, cuts: Cuts) -> Callable[[int], Batch]:
        """A function that reads a window of given number and mixes its rows."""
        return lambda window: concatenate(
            [self._read(number) for number in shuffle.windows[window].tolist()],
            shuffle.order(window)[cuts.wanted(window)],
        )

    def _stretch(self, shuffle: Shuffle, window: int, rows: range) -> list[Batch]:
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


def _distinct(parts: list[np.ndarray]) -> np.ndarray:
    """Sorted distinct ids of all parts.

    `numpy.unique` has a hash table, which takes a hundred times as long where most ids differ.
    """
    ids = np.concatenate(parts)
    ids.sort()
    new = np.ones(len(ids), bool)
    np.not_equal(ids[1:], ids[:-1], out=new[1:])
    return ids[new]


def permutation(num_rows: int, key: tuple[int, ...]) -> np.ndarray:
    """Permutation of the rows 0 to num_rows - 1 that depends on `key` alone.

    Returns
    -------
    uint32 (num_rows,), or uint64 where the rows need it.
    """
    rows = np.arange(num_rows, dtype=np.uint32 if num_rows < 2**32 else np.uint64)
    np.random.default_rng(key).shuffle(rows)
    return rows


def day_rows(rows_per_source: Sequence[int], name: str) -> range:
    """Rows of one part of a log that is split by days: the last one validates and tests.

    Each source is a day. A single source is cut into 7 as `numpy.array_split` cuts, which is what
    DLRM does with Criteo's Kaggle log. The first half of the last day, the larger one of an odd
    number, is the test.

    Parameters
    ----------
    rows_per_source : sequence of int           In the order of time.
    name : {"train", "validation", "test"}

    Raises
    ------
    ValueError : another name.

    Source: Naumov et al., DLRM, `data_utils.py` and `dlrm_data_pytorch.py` of its release.
    """
    total = sum(rows_per_source)
    # The last of numpy.array_split's parts has no row more than the others.
    last_day = rows_per_source[-1] if len(rows_per_source) > 1 else total // DAYS
    trained = total - last_day
    tested = trained + (last_day + 1) // 2
    parts = {
        "train": range(trained),
        "test": range(trained, tested),
        "validation": range(tested, total),
    }
    if name not in parts:
        raise ValueError(f"there is no part {name!r} of a split by days; choose {', '.join(parts)}")
    return parts[name]
