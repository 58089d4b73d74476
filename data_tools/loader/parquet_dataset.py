"""Parquet that other programs wrote, read as a dataset without being converted."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_tools.batch import Rows
from data_tools.errors import DatasetError, ParseError
from data_tools.format.manifest import Manifest, Shard, Source, created_by
from data_tools.loader.dataset import Dataset
from data_tools.options import Options
from data_tools.schema import CRITEO, Schema
from data_tools.sources.table_rows import convert, find_columns
from data_tools.storage.folders import map_file
from robe_numba._locks import renewed_lock

MOST_ROWS_PER_BYTE = 1 << 16  # far more than any encoding has; what is allocated goes by the rows


class ParquetDataset(Dataset):
    """Parquet files of other programs, read in place behind the interface of `Dataset`.

    As NVTabular and Spark write them: a folder whose files end in `.parquet`, in the order of their
    names; other files (`_SUCCESS`, `_metadata`) are ignored. Ids are those that
    `ingest` makes of Parquet, uint64. A block is a row group, decoded when it is read, and a
    shuffle holds whole row groups in memory.

    Parameters
    ----------
    path : path
        A folder, or one file.
    schema : Schema
        The columns by name.
    dense_transform : str
        As of `ingest`; "none" where the files have it done.

    Raises
    ------
    FileNotFoundError
        There are no Parquet files.
    ParseError
        A file is not Parquet or is damaged, lacks a column, or has one of a wrong type.
    DatasetError
        When rows are read: a value breaks a rule.
    """

    def __init__(
        self, path: str | Path, schema: Schema = CRITEO, dense_transform: str = "none"
    ) -> None:
        self.path = Path(path)
        files = sorted(self.path.glob("*.parquet")) if self.path.is_dir() else [self.path]
        files = [file for file in files if file.is_file()]
        if not files:
            raise FileNotFoundError(f"{path} has no files that end in .parquet")
        options = Options(format="parquet", dense_transform=dense_transform, file_format="parquet")
        readers = [_Reader(file, schema, options) for file in files]
        labelled = readers[0].labelled
        for reader in readers:
            if reader.labelled != labelled:
                raise ParseError(reader.path, 1, "of these files some have labels, others not")
        shards = tuple(
            Shard(file.name, int(reader.block_rows.sum()), file.stat().st_size, 0, number)
            for number, (file, reader) in enumerate(zip(files, readers, strict=True))
        )
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
        )
        self._open(manifest, readers)


class _Reader:
    """One file.

    Attributes
    ----------
    block_rows : ndarray, (num_row_groups,) int64
        Row groups without rows are left out.
    labelled : bool
    """

    def __init__(self, path: Path, schema: Schema, options: Options) -> None:
        self.path = path
        self._schema, self._options = schema, options
        self._lock = renewed_lock()
        try:
            self._file = pq.ParquetFile(map_file(path))
        except (pa.ArrowException, OSError) as error:
            raise ParseError(path, 1, f"the parquet file is not readable ({error})") from error
        arrow = self._file.schema_arrow
        present = list(zip(arrow.names, arrow.types, strict=True))
        self._wanted = find_columns(str(path), schema, present, False)
        self.labelled = schema.label in self._wanted
        metadata = self._file.metadata
        rows = [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)]
        size = path.stat().st_size
        if min(rows, default=0) < 0 or sum(rows) > MOST_ROWS_PER_BYTE * size:
            reason = f"its footer counts {sum(rows):,} rows, but the file has {size:,} bytes"
            raise ParseError(path, 1, f"the parquet file is damaged: {reason}")
        self._groups = np.flatnonzero(rows)
        self.block_rows = np.array(rows, np.int64)[self._groups]

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
        rows, faults = convert(
            columns, self._schema, self.labelled, False, self._options.dense_transform
        )
        if faults:
            row, (column, rule) = min(faults.items())
            raise DatasetError(
                f"{self.path}, row {row + 1} of row group {self._groups[block]}: column {column}: "
                f"{rule}; ingest it with on_error='skip'"
            )
        return rows
