"""Mini-batches of an epoch, and the share of them that each of several processes has.

Each process (a rank, as in MPI) trains on its share of every mini-batch. Shuffled rows of a batch
come from everywhere, so a rank that read only its own rows would read every block for a few rows.
Instead a window of a shuffled epoch (see `shuffle.py`) is divided evenly. Each rank reads one
stretch of it, and sends every row to the rank that needs it. All ranks draw the same permutation,
so each knows which rows go where. The mini-batches are those of a single process.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeVar

import numpy as np

from data_tools.batch import Lists, Rows
from data_tools.loader.shuffle import Shuffle
from data_tools.rows import concatenate, take
from robe_numba._share_of import share_of

Arrays = TypeVar("Arrays", bound=tuple)  # a named tuple of arrays (rows, ...) or None


class SentRows(NamedTuple):
    """Rows as they are sent: those of `Rows`, and the length of each list instead of its ids.

    Attributes
    ----------
    labels, dense, indices : ndarray
        As of `Rows`.
    lengths : ndarray, (rows, num_multi_hot) int64
        None for a log without lists.
    """

    labels: np.ndarray | None
    dense: np.ndarray
    indices: np.ndarray
    lengths: np.ndarray | None


class SentIds(NamedTuple):
    """The ids of one multi-hot feature, and their weights or None, as of `Lists`."""

    values: np.ndarray
    weights: np.ndarray | None


class Peers(Protocol):
    """The processes that share mini-batches, as one of them sees them.

    Attributes
    ----------
    rank : int
        Of this one, counted from 0.
    size : int
        Number of them.
    """

    @property
    def rank(self) -> int:
        """Number of this process."""

    @property
    def size(self) -> int:
        """Number of processes."""

    def exchange(self, parts: list[Arrays]) -> list[Arrays]:
        """Send `parts[r]` to rank r, and return what each rank sent here, in the order of ranks.

        A part is a named tuple of arrays of one length, or None; all ranks send the same kind. All
        ranks call this equally often in the same order, on the thread that reads ahead; the main
        thread may use the same network meanwhile. Parts may be empty. They follow one another in
        memory. Neither they nor the returned batches are written to.
        """


def exchange_rows(peers: Peers, parts: list[Rows]) -> list[Rows]:
    """Send `parts[r]` to rank r: first the rows, then the ids of each multi-hot feature."""
    received = peers.exchange([_sent_rows(part) for part in parts])
    features = []
    for number in range(len(parts[0].lists)):
        ids = peers.exchange([_sent_ids(part.lists[number]) for part in parts])
        offsets = [_offsets(rows, number) for rows in received]
        features.append([Lists(i.values, o, i.weights) for i, o in zip(ids, offsets, strict=True)])
    lists = zip(*features, strict=True) if features else [()] * len(received)
    return [
        Rows(rows.labels, rows.dense, rows.indices, each)
        for rows, each in zip(received, lists, strict=True)
    ]


def _sent_rows(rows: Rows) -> SentRows:
    lengths = [np.diff(each.offsets) for each in rows.lists]
    together = np.stack(lengths, axis=1).astype(np.int64) if lengths else None
    return SentRows(rows.labels, rows.dense, rows.indices, together)


def _sent_ids(lists: Lists) -> SentIds:
    own = slice(int(lists.offsets[0]), int(lists.offsets[-1]))
    weights = None if lists.weights is None else lists.weights[own]
    return SentIds(lists.values[own], weights)


def _offsets(rows: SentRows, number: int) -> np.ndarray:
    """Where the lists of a feature begin and the last ends."""
    assert rows.lengths is not None
    offsets = np.zeros(len(rows.lengths) + 1, np.int64)
    np.cumsum(rows.lengths[:, number], out=offsets[1:])
    return offsets


def share_edges(counts: int | np.ndarray, size: int) -> np.ndarray:
    """Where the shares of all ranks begin and the last ends, int64 (..., size + 1)."""
    return np.multiply.outer(counts, np.arange(size + 1)) // size


class Cuts:
    """Cuts consecutive parts of an epoch (windows or blocks) into mini-batches and shares.

    Parameters
    ----------
    ends : ndarray, (num_parts,) int64
        Of each part, in rows of the epoch.
    batch_size : int
        Rows of every batch but the last, which may have fewer.
    start, stop : int
        Rows of the epoch that the batches have; one begins at `start`.
    rank, size : int
        Whose share of each batch is wanted.

    Attributes
    ----------
    parts : range
        Those that have any of the rows.
    rank, size : int
        As given.
    """

    def __init__(
        self, ends: np.ndarray, batch_size: int, start: int, stop: int, rank: int = 0, size: int = 1
    ) -> None:
        self.rank, self.size = rank, size
        self._batch_size = max(min(batch_size, stop), 1)  # no more, or it might need 65 bits
        self._ends, self._start, self._stop = ends, start, stop
        first = int(np.searchsorted(ends, start, side="right"))
        last = int(np.searchsorted(ends, stop)) if start < stop else first - 1
        self.parts = range(first, last + 1)

    def wanted(self, part: int) -> slice:
        """Which rows of a part any batch has."""
        before = int(self._ends[part - 1]) if part else 0
        begin, end = self._span(part)
        return slice(begin - before, end - before)

    def shares(self, part: int) -> np.ndarray:
        """How many rows of each batch a part has for each rank, int64 (num_batches, size).

        Batches and ranks follow one another as their rows do.
        """
        begin, end = self._span(part)
        batch = np.arange(begin // self._batch_size, -(-end // self._batch_size))
        starts = batch * self._batch_size
        rows = np.minimum(starts + self._batch_size, self._stop) - starts
        edges = starts[:, None] + share_edges(rows, self.size)
        return np.diff(np.clip(edges, begin, end))

    def ends_batch(self, part: int) -> bool:
        """Whether the last batch that has rows of a part ends within the part."""
        _, end = self._span(part)
        return end == self._stop or end % self._batch_size == 0

    def _span(self, part: int) -> tuple[int, int]:
        """The rows of the epoch that are in a part and in any batch."""
        before = int(self._ends[part - 1]) if part else 0
        return max(before, self._start), min(int(self._ends[part]), self._stop)


class SharedWindows:
    """Reads windows of a shuffled epoch: a rank reads a stretch, and is sent its own rows.

    Parameters
    ----------
    peers : Peers
    shuffle : Shuffle
    cuts : Cuts
        Of the windows, for this rank.
    stretch : callable(window, rows)
        Returns a range of a window's rows before they are mixed, as one or more batches.
    empty : Rows
        No rows, of the widths and types of the dataset.
    """

    def __init__(
        self,
        peers: Peers,
        shuffle: Shuffle,
        cuts: Cuts,
        stretch: Callable[[int, range], list[Rows]],
        empty: Rows,
    ) -> None:
        self._peers, self._shuffle, self._cuts = peers, shuffle, cuts
        self._stretch, self._empty = stretch, empty

    def read(self, window: int) -> Rows:
        """Return this rank's rows of all batches in a window; all ranks call it together.

        Raises
        ------
        RuntimeError
            Another rank could not read its rows, or has other data or arguments.
        """
        shares = self._cuts.shares(window)
        rank, size = self._cuts.rank, self._cuts.size
        # At each place of the epoch: the row of the window that comes there, and whose it is.
        rows = self._shuffle.order(window)[self._cuts.wanted(window)]
        ranks = np.tile(np.arange(size, dtype=np.min_scalar_type(size)), len(shares))
        owners = np.repeat(ranks, shares.ravel())
        try:
            parts = self._outgoing(window, rows, owners)
        except Exception:
            # The others would wait for ever. So they get no rows, and fail as well.
            exchange_rows(self._peers, [self._empty] * size)
            raise
        received = exchange_rows(self._peers, parts)
        del parts
        return self._arranged(window, rows[owners == rank], received)

    def _outgoing(self, window: int, rows: np.ndarray, owners: np.ndarray) -> list[Rows]:
        """What this rank reads, for each rank its rows in the order of its batches."""
        count, size = int(self._shuffle.window_rows[window]), self._cuts.size
        mine = share_of(count, self._cuts.rank, size)
        read_here = np.flatnonzero((rows >= mine.start) & (rows < mine.stop))
        receivers = owners[read_here]
        order = rows[read_here[_grouped(receivers)]] - mine.start
        together = concatenate(self._stretch(window, mine), order)
        ends = np.cumsum(np.bincount(receivers, minlength=size)).tolist()
        return [
            take(together, slice(begin, end))
            for begin, end in zip([0, *ends[:-1]], ends, strict=True)
        ]

    def _arranged(self, window: int, rows: np.ndarray, received: list[Rows]) -> Rows:
        """Put what all ranks sent into the order of `rows`, numbers of rows of the window."""
        size = self._cuts.size
        edges = share_edges(int(self._shuffle.window_rows[window]), size)
        senders = np.searchsorted(edges[1:-1], rows, side="right").astype(np.min_scalar_type(size))
        expected = np.bincount(senders, minlength=size).tolist()
        for rank, (part, count) in enumerate(zip(received, expected, strict=True)):
            if len(part.dense) != count:
                raise RuntimeError(
                    f"rank {rank} sent {len(part.dense)} rows of window {window}, but should have "
                    f"sent {count}; its own error says why, or give all ranks the same dataset "
                    f"and arguments"
                )
        places = np.empty(len(rows), np.intp)
        places[_grouped(senders)] = np.arange(len(rows))
        return concatenate(received, places)


def _grouped(ranks: np.ndarray) -> np.ndarray:
    """A stable order that puts rows of the same rank together."""
    return np.argsort(ranks, kind="stable")  # of 8 or 16 bits a radix sort
