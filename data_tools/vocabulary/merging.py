"""Sorted runs of ids, merged in bounded memory.

A merge goes through all runs at once, by ranges of ids with so few records that NumPy can sort them
in memory. If there are too many runs for that, groups of them are first merged into longer runs in
scratch files.
"""

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_tools.vocabulary.counts import group_starts, mapped

RECORD_BYTES = 128  # of memory per record that is being merged, at most
LEAST_CHUNK = 256  # records of a run in one range of ids: fewer would read pages many times
MOST_RUNS = 4096  # mapped at once; systems allow some ten thousand mappings


class SortedRun(NamedTuple):
    """Records of one column.

    Attributes
    ----------
    ids : ndarray, (n,) uint32 or uint64
        Strictly increasing.
    counts : ndarray, (n,) uint32 or uint64
        Places that have the id: rows, or ids of lists.
    positions : ndarray, (n,) uint32 or uint64
        The first place that has it, counted from place `start`.
    start : uint64
    """

    ids: np.ndarray
    counts: np.ndarray
    positions: np.ndarray
    start: np.uint64 = np.uint64(0)


def merge(
    openers: Sequence[Callable[[], SortedRun]], folder: Path, memory_bytes: int, dtype: np.dtype
) -> Iterator[SortedRun]:
    """Merge any number of runs: counts of an id are added, its first position is kept.

    Parameters
    ----------
    openers : sequence of callable
        Each opens one run, when it is needed.
    folder : Path
        Exists; where longer runs go if there are too many.
    memory_bytes : int
        Memory for the records, except that at least one record of each of two runs is held.
    dtype : numpy dtype
        Of the ids.

    Yields
    ------
    SortedRun of uint64 counts and positions, start 0; together they are sorted by id.
    """
    max_records = memory_bytes // RECORD_BYTES
    fan_in = min(max(2, max_records // (2 * LEAST_CHUNK)), MOST_RUNS)
    level = 0
    while len(openers) > fan_in:
        longer = []
        for number, begin in enumerate(range(0, len(openers), fan_in)):
            group = [open_run() for open_run in openers[begin : begin + fan_in]]
            path = folder / f"run-{level}-{number}"
            _spill(_merge_at_once(group, max_records), path)
            longer.append(partial(_open_spilled, path, dtype))
        openers = longer
        level += 1
    yield from _merge_at_once([open_run() for open_run in openers], max_records)


def _merge_at_once(runs: list[SortedRun], max_records: int) -> Iterator[SortedRun]:
    """Merge all `runs` by ranges of ids, of `max_records` or at least 2 records per run each."""
    runs = [run for run in runs if len(run.ids)]
    chunk = max(1, max_records // (2 * max(1, len(runs))))
    begins = [0] * len(runs)
    for end_id in chain(_range_ends(runs, chunk), [None]):
        parts = []
        for number, (run, begin) in enumerate(zip(runs, begins, strict=True)):
            rest = run.ids[begin:]
            # The id is of the same dtype: for another one NumPy would convert the whole run.
            taken = len(rest) if end_id is None else int(np.searchsorted(rest, end_id))
            if taken:
                part = slice(begin, begin + taken)
                positions = run.positions[part] + run.start
                parts.append(SortedRun(rest[:taken], run.counts[part], positions))
                begins[number] += taken
        if parts:
            yield _combine(parts)


def _range_ends(runs: list[SortedRun], chunk: int) -> Iterator[np.unsignedinteger]:
    """Ids at which to cut, so that at most 2 * chunk * len(runs) records lie between two cuts.

    Every run is seen as chunks. Between two cuts as many chunks begin as there are runs, and at
    the first cut no more than one chunk of each run has begun and is not finished. Two cuts cannot
    be equal, since an id occurs once in a run.
    """
    heads = heapq.merge(*(run.ids[::chunk] for run in runs))
    return islice(heads, len(runs), None, max(1, len(runs)))


def _combine(parts: list[SortedRun]) -> SortedRun:
    """Sort records, and make one of those that have the same id."""
    ids = np.concatenate([part.ids for part in parts])
    order = np.argsort(ids)
    ids = ids[order]
    starts = group_starts(ids)
    counts = np.concatenate([part.counts for part in parts], dtype=np.uint64)
    counts = np.add.reduceat(counts[order], starts)
    positions = np.concatenate([part.positions for part in parts], dtype=np.uint64)
    return SortedRun(ids[starts], counts, np.minimum.reduceat(positions[order], starts))


def _spill(pieces: Iterable[SortedRun], path: Path) -> None:
    """Write a run to three files."""
    ids, counts, positions = (_part(path, name) for name in ("ids", "counts", "positions"))
    with open(ids, "wb") as first, open(counts, "wb") as second, open(positions, "wb") as third:
        for piece in pieces:
            first.write(piece.ids.data)
            second.write(piece.counts.data)
            third.write(piece.positions.data)


def _open_spilled(path: Path, dtype: np.dtype) -> SortedRun:
    words = np.dtype(np.uint64)
    return SortedRun(
        mapped_array(_part(path, "ids"), dtype),
        mapped_array(_part(path, "counts"), words),
        mapped_array(_part(path, "positions"), words),
    )


def _part(path: Path, name: str) -> Path:
    return path.with_name(f"{path.name}-{name}")


def mapped_array(path: Path, dtype: np.dtype) -> np.ndarray:
    """A file of nothing but numbers as a read-only array; it is mapped, not read."""
    buffer = mapped(path)
    return np.ndarray((buffer.size // dtype.itemsize,), dtype, buffer=buffer)
