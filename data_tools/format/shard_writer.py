"""Write the files of shards: Arrow, compressed or not, and Parquet.

An Arrow shard has record batches of `BLOCK_ROWS["arrow"]` rows. Their columns are `label` float32
(if labelled), and the lists `dense` of float32 and `indices` of unsigned integers. The lists have a
fixed size, so that a mapped file holds rows as arrays in memory do. After them come the multi-hot
columns, as `list_columns` has them. A Parquet shard has the columns of the log, and row groups of
`BLOCK_ROWS["parquet"]` rows.
"""

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa

from data_tools.batch import Rows
from data_tools.format import list_columns
from data_tools.format.manifest import BLOCK_ROWS
from data_tools.schema import Schema
from data_tools.storage.checksums import crc32

LEVELS = {"none": None, "lz4": -1, "zstd": 1}  # -1: as small as 0 and a third faster


class Layout(NamedTuple):
    """How the shards of a dataset are written.

    Attributes
    ----------
    schema : Schema
    labelled : bool
    index_dtype : {"uint32", "uint64"}
    file_format : {"arrow", "parquet"}
    compression : {"none", "lz4", "zstd"}
    """

    schema: Schema
    labelled: bool
    index_dtype: str
    file_format: str
    compression: str

    @property
    def block_rows(self) -> int:
        """Rows of each block of a shard but its last."""
        return BLOCK_ROWS[self.file_format]

    @property
    def order(self) -> Literal["C", "F"]:
        """Memory order of the rows that are written."""
        return "F" if self.file_format == "parquet" else "C"


class ChecksummedFile(io.RawIOBase):
    """A file for writing that counts its bytes and their CRC-32."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._given_up = False
        self.size = 0
        self.crc32 = 0

    def writable(self) -> bool:
        """Whether it can be written: yes."""
        return True

    def write(self, data: Any) -> int:
        """Write all of `data`."""
        view = memoryview(data).cast("B")
        if self._given_up:
            return view.nbytes
        self._file.write(view)
        self.crc32 = crc32(view, self.crc32)
        self.size += view.nbytes
        return view.nbytes

    def tell(self) -> int:
        """Bytes written."""
        return self.size

    def give_up(self) -> None:
        """Ignore further writes."""
        self._given_up = True


def arrow_fields(schema: Schema, labelled: bool, index_dtype: str, name: str) -> pa.Schema:
    """Columns of an Arrow shard, with the schema and the name of the shard as metadata.

    Arrow has no lists of size 0, so a kind of column that the log lacks is left out.
    """
    fields = []
    ids = pa.from_numpy_dtype(np.dtype(index_dtype))
    if labelled:
        fields.append(pa.field("label", pa.float32(), nullable=False))
    for kind, dtype, width in (
        ("dense", pa.float32(), schema.num_dense),
        ("indices", ids, schema.num_categorical),
    ):
        if width:
            fields.append(pa.field(kind, pa.list_(dtype, width), nullable=False))
    fields += list_columns.fields(list_columns.arrow_names(schema), ids)
    return pa.schema(fields, {"schema": json.dumps(schema.to_json()), "shard": name})


def parquet_fields(schema: Schema, labelled: bool, index_dtype: str, name: str) -> pa.Schema:
    """Columns of a Parquet shard, with the same metadata."""
    ids = pa.from_numpy_dtype(np.dtype(index_dtype))
    columns = [(schema.label, pa.float32())] * labelled
    columns += [(column, pa.float32()) for column in schema.dense]
    columns += [(column, ids) for column in schema.categorical]
    fields = [pa.field(column, dtype, nullable=False) for column, dtype in columns]
    fields += list_columns.fields(schema.lists, ids)
    return pa.schema(fields, {"schema": json.dumps(schema.to_json()), "shard": name})


class _ArrowWriter:
    """Writes blocks as record batches."""

    def __init__(self, sink: ChecksummedFile, layout: Layout, name: str) -> None:
        self._fields = arrow_fields(layout.schema, layout.labelled, layout.index_dtype, name)
        self._lists = list_columns.arrow_names(layout.schema)
        codec = None
        if layout.compression != "none":
            codec = pa.Codec(layout.compression, LEVELS[layout.compression])
        options = pa.ipc.IpcWriteOptions(compression=codec, use_threads=False)
        self._writer = pa.ipc.new_file(pa.PythonFile(sink, "w"), self._fields, options=options)

    def write(self, rows: Rows) -> None:
        """Write one block."""
        arrays = {"label": rows.labels, "dense": rows.dense, "indices": rows.indices}
        columns = list_columns.to_arrays(self._lists, rows.lists)
        for name in arrays.keys() & set(self._fields.names):
            values = pa.array(arrays[name].reshape(-1))  # type: ignore[union-attr]
            if name != "label":
                kind = self._fields.field(name).type
                values = pa.FixedSizeListArray.from_arrays(values, type=kind)
            columns[name] = values
        self._writer.write_batch(pa.record_batch(columns, schema=self._fields))

    def close(self) -> None:
        """Write the end of the file."""
        self._writer.close()


class _ParquetWriter:
    """Writes blocks as row groups."""

    def __init__(self, sink: ChecksummedFile, layout: Layout, name: str) -> None:
        import pyarrow.parquet as pq  # other datasets need not wait for it

        self._lists = layout.schema.lists
        self._fields = parquet_fields(layout.schema, layout.labelled, layout.index_dtype, name)
        self._writer = pq.ParquetWriter(
            pa.PythonFile(sink, "w"),
            self._fields,
            compression=layout.compression,
            compression_level=LEVELS["zstd"] if layout.compression == "zstd" else None,
            use_dictionary=False,  # takes as long as all the rest; saves a third of the bytes
            write_statistics=False,
        )

    def write(self, rows: Rows) -> None:
        """Write one block, whose arrays are in the order of columns."""
        columns = [] if rows.labels is None else [rows.labels]
        columns += [*rows.dense.T, *rows.indices.T]
        arrays = [pa.array(column) for column in columns]
        arrays += list_columns.to_arrays(self._lists, rows.lists).values()
        batch = pa.record_batch(arrays, schema=self._fields)
        self._writer.write_batch(batch)

    def close(self) -> None:
        """Write the end of the file."""
        self._writer.close()


def count_rows(file: pa.NativeFile, layout: Layout) -> int:
    """Count the rows of a shard by its metadata; Arrow's last block is read.

    Raises
    ------
    ArrowException, OSError
        The file is not a shard, or is damaged.
    """
    if layout.file_format == "parquet":
        import pyarrow.parquet as pq  # other datasets need not wait for it

        return int(pq.ParquetFile(file).metadata.num_rows)
    reader = pa.ipc.open_file(file)
    full = reader.num_record_batches - 1
    return full * layout.block_rows + reader.get_batch(full).num_rows if full >= 0 else 0


@contextmanager
def shard_writer(
    sink: ChecksummedFile, layout: Layout, name: str
) -> Iterator[_ArrowWriter | _ParquetWriter]:
    """A writer of a shard's blocks, whose file is complete on leaving without an error."""
    make = _ParquetWriter if layout.file_format == "parquet" else _ArrowWriter
    writer = make(sink, layout, name)
    try:
        yield writer
    except BaseException:
        sink.give_up()  # Arrow's Parquet writer closes itself later, when the file is gone
        raise
    writer.close()
