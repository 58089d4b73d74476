"""How often the ids of a shard occur, and where first: what a vocabulary is built from.

A file of counts is an Arrow file with one record batch per column, first the categorical and then
the multi-hot ones, uncompressed: `id` sorted, `count` and `first`. Mapped from the file each is one
contiguous array. A categorical column has a place for each row, a multi-hot column one for each id
of its lists, in their order.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import pyarrow as pa

from data_tools.errors import DatasetError
from data_tools.storage.folders import map_file

DTYPES = (np.dtype(np.uint32), np.dtype(np.uint64))
MAX_ROWS = 2**32 - 1  # places and counts of one shard are 32-bit numbers
# What Arrow, and a look at the columns and metadata, raise where a file is not as it should be.
UNREADABLE = (pa.ArrowException, LookupError, TypeError, ValueError, NotImplementedError)
_REMEDY = "count the shard again"


class ColumnCounts(NamedTuple):
    """The distinct ids of one column of a shard.

    Attributes
    ----------
    ids : ndarray, (n,) uint32 or uint64
        Strictly increasing.
    counts : ndarray, (n,) uint32
        Places of the column that have the id.
    first : ndarray, (n,) uint32
        The first of them, counted from the shard's beginning.
    """

    ids: np.ndarray
    counts: np.ndarray
    first: np.ndarray


class ShardCounter:
    """Collect the ids of a shard block by block, and count them.

    It holds a copy of the shard's ids; one column is counted at a time.

    Parameters
    ----------
    num_columns : int
        Categorical columns.
    dtype : numpy dtype
        Of the ids, uint32 or uint64.
    num_multi_hot : int
        Multi-hot columns.

    Attributes
    ----------
    rows : int
        Rows added so far.
    list_sizes : list of int
        Ids of each multi-hot column so far.

    Raises
    ------
    ValueError
        A number of columns is negative, or another dtype.
    """

    def __init__(
        self, num_columns: int, dtype: np.dtype | type | str, num_multi_hot: int = 0
    ) -> None:
        self.dtype = np.dtype(dtype)
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype is {self.dtype}; ids are uint32 or uint64")
        for name, value in (("num_columns", num_columns), ("num_multi_hot", num_multi_hot)):
            if value < 0:
                raise ValueError(f"{name} is {value}; it must not be negative")
        self.num_columns = num_columns
        self.rows = 0
        self.list_sizes = [0] * num_multi_hot
        self._blocks: list[np.ndarray] = []  # (num_columns, rows of the block)
        self._lists: list[list[np.ndarray]] = [[] for _ in range(num_multi_hot)]

    def add(self, indices: np.ndarray, lists: Sequence[np.ndarray] = ()) -> None:
        """Take the next rows of the shard.

        Parameters
        ----------
        indices : ndarray, (rows, num_columns) uint
            Copied; of the counter's dtype.
        lists : sequence of ndarray, (n,) uint
            The ids of their lists, of each multi-hot column. As `indices`.

        Raises
        ------
        TypeError, ValueError
            Another dtype, shape or number of columns, or the shard gets too many rows or ids.
        """
        check_indices("indices", indices, self.num_columns, self.dtype)
        if len(lists) != len(self.list_sizes):
            raise ValueError(
                f"there are lists of {len(lists)} columns but must be of {len(self.list_sizes)}"
            )
        sizes = [size + len(each) for size, each in zip(self.list_sizes, lists, strict=True)]
        if max(self.rows + len(indices), *sizes, 0) > MAX_ROWS:
            raise ValueError(f"a shard has at most {MAX_ROWS} rows or ids; write smaller shards")
        for blocks, values in zip(self._lists, lists, strict=True):
            check_indices("lists", values[:, None], 1, self.dtype)
            blocks.append(values.copy())
        self._blocks.append(indices.T.copy())
        self.rows += len(indices)
        self.list_sizes = sizes

    def counts(self) -> Iterator[ColumnCounts]:
        """Count the ids of one column after the other, made as they are asked for."""
        none = np.empty(0, self.dtype)
        for column in range(self.num_columns):
            yield _count(np.concatenate([none, *(block[column] for block in self._blocks)]))
        for blocks in self._lists:
            yield _count(np.concatenate([none, *blocks]))


def check_indices(name: str, indices: np.ndarray, num_columns: int, dtype: np.dtype) -> None:
    """Refuse what is not an array of `dtype`, (rows, num_columns), with TypeError or ValueError."""
    if not isinstance(indices, np.ndarray) or indices.dtype != dtype:
        kind = getattr(indices, "dtype", type(indices).__name__)
        raise TypeError(
            f"{name} is {kind} but must be an array of {dtype}; convert the ids first: those that "
            f"{dtype} cannot hold would become other ids"
        )
    if indices.ndim != 2 or indices.shape[1] != num_columns:
        raise ValueError(
            f"{name} has the shape {indices.shape} but must be (rows, {num_columns}), one column "
            "per categorical column of the log"
        )


def _count(column: np.ndarray) -> ColumnCounts:
    """Count the ids of one column, uint (places,)."""
    ids, order = _sorted_with_rows(column)
    starts = group_starts(ids)
    counts = np.diff(starts, append=len(ids))
    return ColumnCounts(ids[starts], counts.astype(np.uint32), order[starts].astype(np.uint32))


def _sorted_with_rows(column: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sorted ids and the place of each; equal ids in the order of their places."""
    if not len(column):
        return column, np.empty(0, np.uint64)
    # Id and row in one word: NumPy sorts words several times faster than it sorts indirectly.
    row_bits = len(column).bit_length()
    dropped = max(0, int(column.max()).bit_length() + row_bits - 64)
    words = column.astype(np.uint64)
    words >>= np.uint64(dropped)
    words <<= np.uint64(row_bits)
    words |= np.arange(len(column), dtype=np.uint64)
    words.sort()
    words &= np.uint64((1 << row_bits) - 1)
    ids = column[words]
    if dropped and (ids[1:] < ids[:-1]).any():  # some ids differ in the dropped bits alone
        order = np.argsort(column, kind="stable")
        return column[order], order
    return ids, words


def group_starts(ids: np.ndarray) -> np.ndarray:
    """Where each distinct value of sorted `ids` begins, int64."""
    return np.flatnonzero(np.concatenate([[True], ids[1:] != ids[:-1]])[: len(ids)])


def _fields(dtype: np.dtype) -> pa.Schema:
    types = {"id": pa.from_numpy_dtype(dtype), "count": pa.uint32(), "first": pa.uint32()}
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in types.items()])


def write_counts(sink: IO[bytes], counter: ShardCounter) -> None:
    """Write what `counter` has counted to a file that is open for writing, column by column."""
    about = {"rows": str(counter.rows)}
    if counter.list_sizes:
        about["list_sizes"] = " ".join(map(str, counter.list_sizes))
    fields = _fields(counter.dtype).with_metadata(about)
    with pa.ipc.new_file(sink, fields) as writer:
        for column in counter.counts():
            writer.write_batch(pa.record_batch([pa.array(values) for values in column], fields))


class CountsFile:
    """A file of counts; only the columns that are asked for are read.

    Parameters
    ----------
    source : path or file
        A path is mapped, and needs no open file afterwards. A file must be seekable and stay open.

    Attributes
    ----------
    rows : int
        Rows of the shard.
    num_columns : int
        Categorical and multi-hot ones.
    sizes : tuple of int
        Places of each column: rows, or ids of lists.
    dtype : numpy dtype
        Of the ids.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    DatasetError
        It is cut off, damaged, or no file of counts.
    """

    def __init__(self, source: str | Path | IO[bytes]) -> None:
        self._name = str(source if isinstance(source, str | Path) else getattr(source, "name", ""))
        try:
            if isinstance(source, str | Path):
                source = mapped(source)
            self._reader = pa.ipc.open_file(source)
            fields = self._reader.schema
            self.dtype = np.dtype(fields.field("id").type.to_pandas_dtype())
            self.rows = int(fields.metadata[b"rows"])
            good = self.dtype in DTYPES and fields.equals(_fields(self.dtype))
            list_sizes = [int(size) for size in fields.metadata.get(b"list_sizes", b"").split()]
            self.num_columns = self._reader.num_record_batches
            self.sizes = (self.rows,) * (self.num_columns - len(list_sizes)) + (*list_sizes,)
            if len(self.sizes) != self.num_columns:
                raise ValueError(f"it has {self.num_columns} columns")
            for size in (self.rows, *self.sizes):
                if not 0 <= size <= MAX_ROWS:
                    raise ValueError(f"it counts {size} rows or ids")
        except UNREADABLE as error:
            raise self._damaged(str(error)) from None
        if not good:
            raise self._damaged(f"its columns are {fields.names}")

    def column(self, number: int) -> ColumnCounts:
        """Read-only counts of a column, views of the file where it is mapped.

        Raises
        ------
        DatasetError
            The column is damaged.
        """
        try:
            batch = self._reader.get_batch(number)
            batch.validate()
            return ColumnCounts(*(values.to_numpy() for values in batch.columns))
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(str(error)) from None

    def _damaged(self, reason: str) -> DatasetError:
        return DatasetError(f"{self._name} is no readable file of counts ({reason}); {_REMEDY}")


def mapped(path: str | Path) -> pa.Buffer:
    """The bytes of a file, mapped. The file itself is closed: thousands may be mapped at once."""
    with map_file(path) as source:
        return source.read_buffer()
