"""Parquet that other programs wrote, read as a dataset without being converted."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_tools.batch import Rows
from data_tools.errors import DatasetError, ParseError
from data_tools.format.manifest import ListFacts, Manifest, Shard, Source, created_by
from data_tools.loader.dataset import Dataset
from data_tools.options import Options
from data_tools.schema import CRITEO, Schema
from data_tools.sources.list_buffer import last_ids
from data_tools.sources.table_rows import (
    Columns,
    Conversion,
    convert,
    find_columns,
    with_lists,
)
from data_tools.storage.folders import map_file
from robe_numba._locks import renewed_lock

MOST_ROWS_PER_BYTE = 1 << 16  # far more than any encoding has; what is allocated goes by the rows


class ParquetDataset(Dataset):
    """Parquet files of other programs, read in place behind the interface of `Dataset`.

    As NVTabular and Spark write them: a folder whose files end in `.parquet`, in the order of their
    names; other files (`_SUCCESS`, `_metadata`) are ignored. Ids are those that
    `ingest` makes of Parquet, uint64, and categorical columns of lists are multi-hot, too. A block
    is a row group, decoded when it is read, and a shuffle holds whole row groups in memory.
    `Manifest.ids_per_row` is an estimate from the footers. These count an empty list as one id, and
    a text that holds several ids as one.

    Parameters
    ----------
    path : path
        A folder, or one file.
    schema : Schema
        The columns by name.
    dense_transform : str
        As of `ingest`; "none" where the files have it done.
    list_separator, max_length : optional
        As of `ingest`.

    Raises
    ------
    FileNotFoundError
        There are no Parquet files.
    ParseError
        A file is not Parquet or is damaged, lacks a column, or has one of a wrong type.
    ValueError
        An option is not allowed.
    DatasetError
        When rows are read: a value breaks a rule.
    """

    def __init__(
        self,
        path: str | Path,
        schema: Schema = CRITEO,
        dense_transform: str = "none",
        list_separator: str | None = None,
        max_length: int | None = None,
    ) -> None:
        self.path = Path(path)
        files = sorted(self.path.glob("*.parquet")) if self.path.is_dir() else [self.path]
        files = [file for file in files if file.is_file()]
        if not files:
            raise FileNotFoundError(f"{path} has no files that end in .parquet")
        options = Options(
            format="parquet",
            dense_transform=dense_transform,
            file_format="parquet",
            list_separator=list_separator,
            max_length=max_length,
        )
        opened = [_opened(file) for file in files]
        schema = with_lists(schema, [columns for _, columns in opened])
        readers = [
            _Reader(path, *file, schema, options) for path, file in zip(files, opened, strict=True)
        ]
        labelled = readers[0].labelled
        for reader in readers:
            if reader.labelled != labelled:
                raise ParseError(reader.path, 1, "of these files some have labels, others not")
        shards = tuple(
            Shard(file.name, int(reader.block_rows.sum()), file.stat().st_size, 0, number)
            for number, (file, reader) in enumerate(zip(files, readers, strict=True))
        )
        ids = [reader.list_ids for reader in readers]
        manifest = Manifest(
            schema=schema,
            sources=tuple(Source(file.name, file.stat().st_size) for file in files),
            options=options,
            rows=sum(shard.rows for shard in shards),
            positives=None,
            rejected=0,
            labelled=labelled,
            index_dtype="uint64",
            folder="shards-0",
            block_rows=max((int(r.block_rows.max(initial=1)) for r in readers), default=1),
            shards=shards,
            vocabulary=(),
            created_by=created_by(),
            lists=tuple(ListFacts(sum(ids)) for ids in zip(*ids, strict=True)),
        )
        self._open(manifest, readers)


def _opened(path: Path) -> tuple[pq.ParquetFile, Columns]:
    """A file and its columns."""
    try:
        file = pq.ParquetFile(map_file(path))
        schema = file.schema_arrow
        return file, list(zip(schema.names, schema.types, strict=True))
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ParseError(path, 1, f"the parquet file is not readable ({error})") from error


class _Reader:
    """One file.

    Attributes
    ----------
    block_rows : ndarray, (num_row_groups,) int64
        Row groups without rows are left out.
    labelled : bool
    list_ids : list of int
        Ids of each multi-hot column, as the footer has them.
    """

    def __init__(
        self, path: Path, file: pq.ParquetFile, columns: Columns, schema: Schema, options: Options
    ) -> None:
        self.path, self._file = path, file
        self._lock = renewed_lock()
        separator = options.list_separator
        self._wanted = find_columns(str(path), schema, columns, False, separator)
        self.labelled = schema.label in self._wanted
        self._conversion = Conversion(
            schema, self.labelled, options.dense_transform, False, separator
        )
        self._max_length = options.max_length
        metadata = self._file.metadata
        rows = [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)]
        size = path.stat().st_size
        if min(rows, default=0) < 0 or sum(rows) > MOST_ROWS_PER_BYTE * size:
            reason = f"its footer counts {sum(rows):,} rows, but the file has {size:,} bytes"
            raise ParseError(path, 1, f"the parquet file is damaged: {reason}")
        self._groups = np.flatnonzero(rows)
        self.block_rows = np.array(rows, np.int64)[self._groups]
        self.list_ids = [_values(metadata, name) for name in schema.multi_hot]
        if options.max_length is not None:
            most = sum(rows) * options.max_length
            self.list_ids = [min(ids, most) for ids in self.list_ids]

    def read(self, block: int) -> Rows:
        """Rows of a row group, converted."""
        try:
            with self._lock:
                table = self._file.read_row_group(
                    int(self._groups[block]), columns=self._wanted, use_threads=False
                )
        except (pa.ArrowException, OSError) as error:
            raise DatasetError(f"{self.path} is damaged ({error})") from None
        columns = pa.RecordBatch.from_struct_array(table.to_struct_array().combine_chunks())
        rows, faults = convert(columns, self._conversion)
        if faults:
            row, (column, rule) = min(faults.items())
            raise DatasetError(
                f"{self.path}, row {row + 1} of row group {self._groups[block]}: column {column}: "
                f"{rule}; ingest it with on_error='skip'"
            )
        if self._max_length is None:
            return rows
        lists = (last_ids(each, self._max_length)[0] for each in rows.lists)
        return rows._replace(lists=tuple(lists))


def _values(metadata: pq.FileMetaData, name: str) -> int:
    """Values of a column that may be of lists, as the footer counts them."""
    paths = [metadata.schema.column(number).path for number in range(metadata.num_columns)]
    place = next(n for n, path in enumerate(paths) if f"{path}.".startswith(f"{name}."))
    groups = (metadata.row_group(number) for number in range(metadata.num_row_groups))
    return max(sum(group.column(place).num_values for group in groups), 0)
