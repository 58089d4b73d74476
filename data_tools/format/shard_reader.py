"""Reading shards: the files of a dataset, block by block, as NumPy arrays."""

from typing import Any

import numpy as np
import pyarrow as pa

from data_tools.batch import Lists, Rows
from data_tools.errors import DatasetError
from data_tools.format import list_columns
from data_tools.format.manifest import Manifest, Shard
from data_tools.format.shard_writer import arrow_fields, parquet_fields
from data_tools.schema import Schema
from data_tools.storage.folders import Folder
from robe_numba._locks import renewed_lock

REMEDY = "restore the file or ingest the log again"


def open_shard(folder: Folder, manifest: Manifest, number: int) -> "ArrowShard | ParquetShard":
    """Open a shard of the dataset in `folder`; nothing is read but what says where its rows are.

    Raises
    ------
    FileNotFoundError
        The shard is missing.
    DatasetError
        It is cut off, damaged, or a shard of another dataset.
    """
    shard = manifest.shards[number]
    name = f"{manifest.folder}/{shard.name}"
    path = folder.path(name)
    size = folder.size(name)
    if size is None:
        raise FileNotFoundError(f"the shard {path} is missing; {REMEDY}")
    if size != shard.bytes:
        raise DatasetError(f"{path} has {size} bytes, but should have {shard.bytes}; {REMEDY}")
    is_parquet = shard.name.endswith(".parquet")
    kind = ParquetShard if is_parquet else ArrowShard
    fields = parquet_fields if is_parquet else arrow_fields
    expected = fields(manifest.schema, manifest.labelled, manifest.index_dtype, shard.name)
    try:
        reader = kind(folder.open(name), manifest, shard)
        found, num_blocks = reader.contents()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # names of columns
        raise DatasetError(f"{path} is not a readable shard ({error}); {REMEDY}") from None
    metadata = {key: (found.metadata or {}).get(key) for key in expected.metadata}
    full, rest = divmod(shard.rows, manifest.block_rows)
    if (
        not found.equals(expected)
        or metadata != expected.metadata
        or num_blocks != full + (rest > 0)
    ):
        raise DatasetError(f"{path} belongs to another dataset; {REMEDY}")
    # Not before: now the number of blocks is known to be that of the file, so it is no huge lie.
    reader.block_rows = np.full(num_blocks, manifest.block_rows, np.int64)
    if rest:
        reader.block_rows[-1] = rest
    return reader


class _Shard:
    """What shards of all formats have.

    Attributes
    ----------
    block_rows : ndarray, (num_blocks,) int64
        Set once the number of blocks in the file is checked.
    """

    block_rows: np.ndarray

    def __init__(self, manifest: Manifest, shard: Shard) -> None:
        self._schema = manifest.schema
        self._index_dtype = manifest.index_dtype
        self._name = shard.name
        self._lock = renewed_lock()  # readers keep state while they read

    def _check(self, block: int, rows: int) -> None:
        if rows != self.block_rows[block]:
            raise DatasetError(
                f"block {block} of {self._name} has {rows} rows, but should have "
                f"{self.block_rows[block]}; {REMEDY}"
            )


class ArrowShard(_Shard):
    """A shard in Arrow's file format; its blocks are record batches."""

    def __init__(self, file: pa.NativeFile, manifest: Manifest, shard: Shard) -> None:
        super().__init__(manifest, shard)
        self._lists = list_columns.arrow_names(manifest.schema)
        options = pa.ipc.IpcReadOptions(use_threads=False)
        self._reader = pa.ipc.open_file(file, options=options)

    def contents(self) -> tuple[pa.Schema, int]:
        """Schema and number of blocks."""
        return self._reader.schema, self._reader.num_record_batches

    def read(self, block: int) -> Rows:
        """Rows of a block: read-only views of the mapped file where it is not compressed."""
        try:
            with self._lock:
                batch = self._reader.get_batch(block)
            batch.validate()
            columns: dict[str, Any] = dict(zip(batch.schema.names, batch.columns, strict=True))
            lists = list_columns.from_arrays(self._lists, columns)
            views = {
                name: getattr(column, "values", column).to_numpy()
                for name, column in columns.items()
                if name in ("label", "dense", "indices")
            }
        except (pa.ArrowException, OSError) as error:
            raise DatasetError(f"{self._name} is damaged ({error}); {REMEDY}") from None
        rows = batch.num_rows
        self._check(block, rows)
        none = np.empty((rows, 0), np.float32)
        return Rows(
            views.get("label"),
            views.get("dense", none).reshape(rows, self._schema.num_dense),
            views.get("indices", none.astype(self._index_dtype)).reshape(
                rows, self._schema.num_categorical
            ),
            lists,
        )


class ParquetShard(_Shard):
    """A shard in Parquet; its blocks are row groups."""

    def __init__(self, file: Any, manifest: Manifest, shard: Shard) -> None:
        import pyarrow.parquet as pq  # other datasets need not wait for it

        super().__init__(manifest, shard)
        self._file = pq.ParquetFile(file)

    def contents(self) -> tuple[pa.Schema, int]:
        """Schema and number of blocks."""
        return self._file.schema_arrow, self._file.num_row_groups

    def read(self, block: int) -> Rows:
        """Rows of a block, decoded."""
        self._check(
            block, self._file.metadata.row_group(block).num_rows
        )  # before memory is allocated for them
        try:
            with self._lock:
                table = self._file.read_row_group(block, use_threads=False)
            lists = list_columns.from_arrays(self._schema.lists, _lists_of(table))
        except (pa.ArrowException, OSError) as error:
            raise DatasetError(f"{self._name} is damaged ({error}); {REMEDY}") from None
        self._check(block, table.num_rows)
        schema = self._schema
        labels = None
        if schema.label in table.schema.names:
            labels = table.column(schema.label).to_numpy()
        return Rows(
            labels,
            _rows(table, schema.dense, np.float32),
            _rows(table, schema.categorical, self._index_dtype),
            lists,
        )


def _rows(table: pa.Table, names: tuple[str, ...], dtype: Any) -> np.ndarray:
    """Columns side by side, C-contiguous (num_rows, num_columns)."""
    out = np.empty((table.num_rows, len(names)), dtype)
    for i, name in enumerate(names):
        out[:, i] = table.column(name).to_numpy()
    return out


def _lists_of(table: pa.Table) -> dict[str, pa.Array]:
    """The columns of lists, each in one piece."""
    lists = [field.name for field in table.schema if pa.types.is_list(field.type)]
    return {name: table.column(name).combine_chunks() for name in lists}


def no_rows(schema: Schema, labelled: bool, index_dtype: str) -> Rows:
    """Arrays of no rows, of the widths and types of a dataset."""
    return Rows(
        np.empty(0, np.float32) if labelled else None,
        np.empty((0, schema.num_dense), np.float32),
        np.empty((0, schema.num_categorical), index_dtype),
        tuple(
            Lists(
                np.empty(0, index_dtype),
                np.zeros(1, np.int32),
                None if weights is None else np.empty(0, np.float32),
            )
            for _, weights in schema.lists
        ),
    )
