"""From the counts of all shards to a vocabulary, in bounded memory.

Columns are built one after another. The counts of a column are merged by id; ids that occur often
enough are kept, and numbered in the order of their first places: rows or, in a multi-hot column,
the ids of all lists one after another. Intermediate results are in scratch files.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, NamedTuple

import numpy as np
import pyarrow as pa

from data_tools.errors import DatasetError
from data_tools.vocabulary.counts import CountsFile
from data_tools.vocabulary.id_map import DIGEST_BYTES, column_fields
from data_tools.vocabulary.merging import SortedRun, mapped_array, merge

MEMORY_BYTES = 1 << 28
MOST_KEPT = 2**32 - 1  # numbers are uint32, and one is left for all other ids
WORD_BYTES = 24  # of memory for each 64 places, while ids are numbered
NUMBERING_BYTES = 512  # of memory per id then; the bitmap gets the most
_SIX, _LOW_SIX = np.uint64(6), np.uint64(63)


class ColumnSize(NamedTuple):
    """Distinct ids of a column, and how many of them occur often enough to be known."""

    distinct: int
    kept: int


class _Log(NamedTuple):
    """The counted shards: the path of the counts of each, and common facts.

    `starts` has for each shard, and at last for their end, the first place in each column.
    """

    paths: list[Path]
    starts: list[list[int]]
    num_columns: int
    dtype: np.dtype


def build_vocabulary(
    counts_files: Iterable[str | Path | IO[bytes]],
    open_column: Callable[[int], IO[bytes]],
    *,
    scratch_folder: str | Path,
    by_appearance: bool = True,
    min_count: int = 1,
    memory_bytes: int = MEMORY_BYTES,
) -> tuple[ColumnSize, ...]:
    """Build the vocabulary of a log from the counts of its shards.

    Parameters
    ----------
    counts_files : iterable of paths or files
        At least one file of `write_counts`, in the order of the shards. Paths are mapped in place.
        Open files are copied to the scratch folder, one by one, and are not closed.
    open_column : callable(column)
        Opens the file of a column for writing, which `IdMap` reads. Called once per column, in
        order. The file is closed after it is written.
    scratch_folder : path
        Must exist. A subfolder is made in it, and is removed at the end even after an error.
    by_appearance : bool
        Number the kept ids of a column 0, 1, 2, ... by the first row that has them, and within a
        row by their places in its list. Otherwise they keep their values.
    min_count : int
        How often an id must occur for it to be kept. An id that a list repeats counts each time.
    memory_bytes : int
        Memory for buffers. Thousands of shards need some MB more.

    Returns
    -------
    tuple of ColumnSize

    Raises
    ------
    ValueError
        `min_count` or `memory_bytes` is below 1, or there are no counts.
    NotADirectoryError
        There is no scratch folder.
    FileNotFoundError
        A file of counts is missing.
    DatasetError
        A file of counts is damaged or of another log, or more than 2**32 - 1 ids would be kept.
    """
    for name, value in (("min_count", min_count), ("memory_bytes", memory_bytes)):
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1")
    if not Path(scratch_folder).is_dir():
        raise NotADirectoryError(f"the scratch folder {scratch_folder} is missing; make it first")
    columns: list[ColumnSize] = []
    with TemporaryDirectory(prefix="vocabulary-", dir=scratch_folder) as made:
        folder = Path(made)
        log = _inspect([_local(source, folder, n) for n, source in enumerate(counts_files)])
        for column in range(log.num_columns):
            with TemporaryDirectory(dir=folder) as subfolder:
                build = _ColumnBuild(log, column, Path(subfolder), min_count, memory_bytes)
                columns.append(build.merge(by_appearance))
                if by_appearance:
                    build.number()
                build.write(open_column)
    return tuple(columns)


def _local(source: str | Path | IO[bytes], folder: Path, number: int) -> Path:
    """Path of a file of counts, copied to `folder` if it has none."""
    if isinstance(source, str | Path):
        return Path(source)
    path = folder / f"counts-{number}"
    with open(path, "wb") as file:
        shutil.copyfileobj(source, file)
    return path


def _inspect(paths: list[Path]) -> _Log:
    """Open each file of counts once, so that a bad one is found before the work begins."""
    if not paths:
        raise ValueError("there are no counts; count at least one shard, even an empty one")
    first = CountsFile(paths[0])
    starts = [[0] * first.num_columns]
    for path in paths:
        counts = CountsFile(path)
        if (counts.num_columns, counts.dtype) != (first.num_columns, first.dtype):
            raise DatasetError(
                f"{path} counts {counts.num_columns} columns of {counts.dtype}, but {paths[0]} "
                f"{first.num_columns} of {first.dtype}; count shards of one log"
            )
        starts.append([at + size for at, size in zip(starts[-1], counts.sizes, strict=True)])
    return _Log(paths, starts, first.num_columns, first.dtype)


class _ColumnBuild:
    """One column on its way: three scratch files of one number per kept id, in the ids' order."""

    def __init__(
        self, log: _Log, column: int, folder: Path, min_count: int, memory_bytes: int
    ) -> None:
        self._log = log
        self._column = column
        self._size = log.starts[-1][column]
        self._folder = folder
        self._min_count = min_count
        self._memory_bytes = memory_bytes
        self._ids, self._positions, self._numbers = (
            folder / name for name in ("ids", "positions", "numbers")
        )

    def merge(self, by_appearance: bool) -> ColumnSize:
        """Merge the counts of all shards, and write the kept ids and their first places."""
        log, distinct, kept, seen = self._log, 0, 0, 0
        starts = [shard[self._column] for shard in log.starts[:-1]]
        shards = zip(log.paths, starts, strict=True)
        openers = [partial(_open_run, *shard, self._column) for shard in shards]
        pieces = merge(openers, self._folder, self._memory_bytes, log.dtype)
        with open(self._ids, "wb") as ids, open(self._positions, "wb") as positions:
            for piece in pieces:
                chosen = piece.counts >= self._min_count
                distinct += len(chosen)
                kept += int(np.count_nonzero(chosen))
                seen += int(piece.counts.sum())
                ids.write(piece.ids[chosen].data)
                if by_appearance:
                    positions.write(piece.positions[chosen].data)
        if seen != self._size:
            raise DatasetError(
                f"column {self._column} has {self._size} rows or ids of lists, but the counts "
                f"of its ids add up to {seen}; count the shards again"
            )
        if kept > MOST_KEPT:
            raise DatasetError(
                f"column {self._column} has {kept} ids to be kept, but {MOST_KEPT} is the most; "
                "reduce them modulo max_ind_range, or raise min_count"
            )
        return ColumnSize(distinct, kept)

    def number(self) -> None:
        """Write the number of each kept id: how many kept ids appear before it.

        The first places of the kept ids are marked in a bitmap of as many places as the memory
        allows, and the marks before each of them are counted.
        """
        positions = mapped_array(self._positions, np.dtype(np.uint64))
        if not len(positions):
            self._numbers.touch()
            return
        step = max(1, self._memory_bytes // NUMBERING_BYTES)
        with open(self._numbers, "wb") as file:  # so that a full disk is an error here, not below
            for begin in range(0, len(positions), step):
                file.write(np.zeros(min(step, len(positions) - begin), np.uint32).data)
        numbers = np.memmap(self._numbers, np.uint32, "r+")
        words = max(1, self._memory_bytes // WORD_BYTES)
        before = 0
        for begin in range(0, self._size, 64 * words):
            part = range(begin, min(begin + 64 * words, self._size))
            before = _number_places(positions, numbers, part, before, step)
        if before != len(positions):
            raise DatasetError(
                f"column {self._column} has {len(positions)} ids, but {before} first places of "
                "them; count the shards again"
            )
        numbers.flush()

    def write(self, open_column: Callable[[int], IO[bytes]]) -> None:
        """Write the column's file from its scratch files."""
        dtype = self._log.dtype
        arrays = [mapped_array(self._ids, dtype)]
        if self._numbers.exists():
            arrays.append(mapped_array(self._numbers, np.dtype(np.uint32)))
        digest = hashlib.blake2b(str(dtype).encode(), digest_size=DIGEST_BYTES)
        for values in arrays:
            digest.update(values.data)
        about = {
            "column": f"{self._column} of {self._log.num_columns}",
            "digest": digest.hexdigest(),
        }
        fields = column_fields(dtype, len(arrays) > 1).with_metadata(about)
        batch = pa.record_batch([pa.array(values) for values in arrays], fields)
        with open_column(self._column) as sink, pa.ipc.new_file(sink, fields) as writer:
            writer.write_batch(batch)


def _open_run(path: Path, start: int, column: int) -> SortedRun:
    """A shard's counts of a column; its places are counted from the beginning of the log."""
    return SortedRun(*CountsFile(path).column(column), np.uint64(start))


def _number_places(
    positions: np.ndarray, numbers: np.ndarray, part: range, before: int, step: int
) -> int:
    """Number the ids that appear first in `part`, from `before` on; return the next number."""
    marks = np.zeros(-(-len(part) // 64), np.uint64)
    for _, places in _in_part(positions, part, step):
        np.bitwise_or.at(marks, places >> _SIX, np.uint64(1) << (places & _LOW_SIX))
    # Marks up to the end of each word; an id has all of them before it but those from its own on.
    ends = np.cumsum(np.bitwise_count(marks), dtype=np.uint32)
    ends += np.uint32(before)
    for chosen, places in _in_part(positions, part, step):
        words = places >> _SIX
        own = np.bitwise_count(marks[words] >> (places & _LOW_SIX))
        numbers[chosen] = ends[words] - own
    return int(ends[-1])


def _in_part(
    positions: np.ndarray, part: range, step: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The positions within `part`, `step` of all at a time: which, and how far from the first."""
    for begin in range(0, len(positions), step):
        some = positions[begin : begin + step]
        chosen = np.flatnonzero((some >= part.start) & (some < part.stop))
        yield chosen + begin, some[chosen] - np.uint64(part.start)
