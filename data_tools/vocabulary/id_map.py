"""The map from the known ids of a log to their numbers.

The ids of a column are sorted in a mapped file. A directory in memory gives, for the upper bits of
an id, the few places to search. So an id costs two or three reads of memory, and the memory of a
process does not grow with the number of ids.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from data_tools.errors import DatasetError
from data_tools.vocabulary.counts import DTYPES, UNREADABLE, check_indices, mapped
from data_tools.vocabulary.id_search import Column, fill_starts, map_column

DIRECTORY_BYTES = 1 << 28
BLOCK_ROWS = 8192  # mapped at a time column by column, so that they stay in the cache
OUTLIERS = 64  # the share of ids, 1 in 64 at either end, that a directory's range leaves out

DIGEST_BYTES = 16
_REMEDY = "ingest the log again"


class IdMap:
    """The known ids of every categorical column, opened from the files of `build_vocabulary`.

    It never changes, so any number of threads may use it. Opening it reads all ids once.

    Parameters
    ----------
    files : sequence of path
        One per categorical column, in their order, then one per multi-hot column.
    max_ind_range : int
        The modulus by which ids were reduced, if any. Where ids keep their values, unknown ids
        become this. None: they become the largest value of the dtype.
    num_multi_hot : int
        How many of the columns are multi-hot.
    directory_bytes : int
        Memory for the directories of all columns.

    Attributes
    ----------
    dtype : numpy dtype
        Of the ids, uint32 or uint64.
    num_columns : int
    num_single : int
        Those that are not multi-hot.
    by_appearance : bool
        Whether ids become numbers, or keep their values.
    kept : tuple of int
        Known ids of each column.
    rare_ids : tuple of int
        What an unknown id of each column becomes; where ids become numbers, the first free number,
        `kept`.

    Raises
    ------
    FileNotFoundError
        A file is missing.
    DatasetError
        A file is cut off, damaged, of another vocabulary, or out of order.
    ValueError
        There are no files, or max_ind_range, num_multi_hot or directory_bytes is out of range.
    """

    def __init__(
        self,
        files: Sequence[str | Path],
        *,
        max_ind_range: int | None = None,
        num_multi_hot: int = 0,
        directory_bytes: int = DIRECTORY_BYTES,
    ) -> None:
        if not files:
            raise ValueError("there are no files; give one per categorical column")
        if directory_bytes < 1:
            raise ValueError(f"directory_bytes is {directory_bytes}; it must be at least 1")
        if not 0 <= num_multi_hot <= len(files):
            raise ValueError(f"num_multi_hot is {num_multi_hot}, but there are {len(files)} files")
        paths = [Path(file) for file in files]
        batches = [_open_column(path, number, len(paths)) for number, path in enumerate(paths)]
        fields = batches[0].schema
        for path, batch in zip(paths, batches, strict=True):
            if batch.schema != fields:
                raise DatasetError(f"{path} and {paths[0]} are of two vocabularies; {_REMEDY}")
        self.dtype = np.dtype(fields.field("id").type.to_pandas_dtype())
        self.num_columns = len(batches)
        self.num_single = len(batches) - num_multi_hot
        self.by_appearance = "number" in fields.names
        self.kept = tuple(batch.num_rows for batch in batches)
        rare = _rare_id(self.dtype, max_ind_range)
        self.rare_ids = self.kept if self.by_appearance else (rare,) * len(batches)
        most = _most_buckets(self.kept, directory_bytes)
        self._columns = [
            _lay_out(path, batch, rare, most)
            for path, batch, rare in zip(paths, batches, self.rare_ids, strict=True)
        ]
        if max_ind_range is not None:
            self._check_reduced(max_ind_range)

    def map(self, indices: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Map known ids to their numbers, or to themselves, and all others to `rare_ids`.

        Parameters
        ----------
        indices : ndarray, (rows, num_single) uint
            Of the vocabulary's dtype, reduced as its ids were.
        out : as indices, optional
            Receives the result; it may be `indices`.

        Returns
        -------
        ndarray, as `indices`
            `out`, or a new array.

        Raises
        ------
        TypeError, ValueError
            Another dtype or shape, or `out` cannot be written.
        """
        check_indices("indices", indices, self.num_single, self.dtype)
        if out is None:
            out = np.empty(indices.shape, self.dtype)
        check_indices("out", out, self.num_single, self.dtype)
        if out.shape != indices.shape:
            raise ValueError(f"out has the shape {out.shape} but must have that of indices")
        if not out.flags.writeable:
            raise ValueError("out is read-only; leave it out, or pass a copy")
        source = indices.view()
        source.flags.writeable = False  # as mapped shards are, so that one kernel serves all
        for begin in range(0, len(source), BLOCK_ROWS):
            block = slice(begin, begin + BLOCK_ROWS)
            for number, column in enumerate(self._columns[: self.num_single]):
                map_column(source[block, number], out[block, number], column)
        return out

    def map_list(self, number: int, values: np.ndarray) -> np.ndarray:
        """Map ids of multi-hot column `number`, counted from 0, as `map` does.

        Parameters
        ----------
        values : ndarray, (n,) uint
            As of `indices` in `map`.

        Returns
        -------
        ndarray, (n,), of the same dtype

        Raises
        ------
        TypeError, ValueError
            Another dtype or shape.
        """
        check_indices("values", values[:, None], 1, self.dtype)
        out = np.empty(values.shape, self.dtype)
        source = values.view()
        source.flags.writeable = False
        map_column(source, out, self._columns[self.num_single + number])
        return out

    def known(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Known ids (n,) of a column, strictly increasing, and what each becomes."""
        column = self._columns[number]
        return column.ids, column.numbers if self.by_appearance else column.ids

    def _check_reduced(self, max_ind_range: int) -> None:
        """Refuse a vocabulary of ids that were not reduced modulo `max_ind_range`."""
        for number, column in enumerate(self._columns):
            if len(column.ids) and column.ids[-1] >= max_ind_range:
                raise ValueError(
                    f"max_ind_range is {max_ind_range}, but column {number} of the vocabulary has "
                    f"the id {column.ids[-1]}; reduce the ids before they are counted"
                )


def column_fields(dtype: np.dtype, by_appearance: bool) -> pa.Schema:
    """Columns of a vocabulary's file, without its metadata."""
    types = {"id": pa.from_numpy_dtype(dtype)} | ({"number": pa.uint32()} if by_appearance else {})
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in types.items()])


def _open_column(path: Path, number: int, num_columns: int) -> pa.RecordBatch:
    """Map the file of column `number`; nothing is read but its footer."""
    if not path.is_file():
        raise FileNotFoundError(f"the vocabulary's file {path} is missing; {_REMEDY}")
    try:
        reader = pa.ipc.open_file(mapped(path))
        batch = reader.get_batch(0)
        batch.validate()
        dtype = np.dtype(batch.schema.field("id").type.to_pandas_dtype())
        place = batch.schema.metadata[b"column"].decode()
        good = dtype in DTYPES and batch.schema.metadata[b"digest"].decode()
    except (*UNREADABLE, OSError) as error:
        raise DatasetError(f"{path} is not a vocabulary ({error}); {_REMEDY}") from None
    fields = (column_fields(dtype, by_appearance) for by_appearance in (False, True))
    whole = reader.num_record_batches == 1 and not any(c.null_count for c in batch.columns)
    if not good or batch.schema not in list(fields) or not whole:
        raise DatasetError(f"{path} is not a vocabulary; {_REMEDY}")
    if place != f"{number} of {num_columns}":
        raise DatasetError(
            f"{path} is column {place} of its vocabulary, but is given as column {number} of "
            f"{num_columns} (from 0); give all its files in their order"
        )
    return batch


def _rare_id(dtype: np.dtype, max_ind_range: int | None) -> int:
    """What an unknown id becomes where known ones keep their values."""
    largest = int(np.iinfo(dtype).max)
    if max_ind_range is None:
        return largest
    if not 1 <= max_ind_range <= largest:
        raise ValueError(f"max_ind_range is {max_ind_range}; it must be from 1 to {largest}")
    return max_ind_range


def _most_buckets(kept: tuple[int, ...], directory_bytes: int) -> int:
    """Most buckets that a column may have, so that the directories of all fit the memory."""
    most = 1 << 31
    while most > 1 and sum(4 * min(most, 2 * size) for size in kept) > directory_bytes:
        most //= 2
    return most


def _lay_out(path: Path, batch: pa.RecordBatch, rare: int, most_buckets: int) -> Column:
    """Make the directory of one column, about one id to a bucket where the memory allows it.

    The buckets share the range of all ids but the outermost, so that a null that became 0 or a -1
    that became 2**64 - 1 does not push all others into one bucket.
    """
    ids = batch.column(0).to_numpy()
    numbers = np.empty(0, np.uint32)
    numbers.flags.writeable = False
    if batch.num_columns > 1:
        numbers = batch.column(1).to_numpy()
    outside = len(ids) // OUTLIERS
    base, top = (int(ids[outside]), int(ids[-1 - outside])) if len(ids) else (0, 0)
    most = max(1, min(most_buckets, 2 * len(ids)))
    shift = 0
    while (top - base) >> shift >= most:
        shift += 1
    starts = np.empty((max(0, top - base) >> shift) + 2, np.uint32)
    column = Column(ids, numbers, starts, np.uint64(base), np.uint64(shift), np.uint64(rare))
    if not fill_starts(ids, starts, column.base, column.shift):
        raise DatasetError(f"the ids in {path} are not strictly increasing; {_REMEDY}")
    return column
