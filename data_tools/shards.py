"""Shards: Arrow files of rows, written from buffers and mapped back as NumPy arrays.

A shard holds one record batch, uncompressed: `label` float32 (where labelled), `dense` a list of
float32 and `indices` a list of unsigned integers, both of a fixed size. Mapped from the file each
column is one contiguous array.
"""

import json
import os
import zlib
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa

from data_tools.batch import Batch
from data_tools.errors import DatasetError, ParseError
from data_tools.manifest import Manifest, Shard, shard_name
from data_tools.schema import Schema

SHARD_ROWS = 1 << 19  # two buffers of them take 170 MB for Criteo


def _arrow_schema(schema: Schema, labelled: bool, index_dtype: str) -> pa.Schema:
    """Columns of a shard, without its metadata.

    Arrow cannot handle lists of size 0, so a kind of column that the log lacks is left out.
    """
    fields = []
    if labelled:
        fields.append(pa.field("label", pa.float32(), nullable=False))
    for name, dtype, width in (
        ("dense", pa.float32(), schema.num_dense),
        ("indices", pa.from_numpy_dtype(index_dtype), schema.num_categorical),
    ):
        if width:
            fields.append(pa.field(name, pa.list_(dtype, width), nullable=False))
    return pa.schema(fields)


def _about(schema: Schema, number: int, crc32: int) -> dict[str, str]:
    """Metadata of a shard: the log's columns, its place in the dataset, and its values' checksum.

    The manifest has the same, so a shard of another dataset is noticed without reading its values.
    """
    return {
        "schema": json.dumps(schema.to_json()),
        "shard": str(number),
        "crc32": f"{crc32:08x}",
    }


class ShardWriter:
    """Collect rows and write them to numbered shards in a folder.

    A full shard is written by a second thread while the next is being filled, so there are two
    sets of buffers. Use it as a context manager: on leaving, no thread is writing any more.

    Parameters
    ----------
    folder : Path            Exists; the shards go there.
    schema : Schema
    index_dtype : str        "uint32" or "uint64".
    shard_rows : int         Rows of every shard but the last.
    labelled : bool or None  Whether the sources must be labelled; None: the first one decides.

    Attributes
    ----------
    shards : list of Shard   Complete after `close`.
    rows, positives : int    So far, positives only where labelled.
    labelled : bool or None  None until the first source has told.
    """

    def __init__(
        self,
        folder: Path,
        schema: Schema,
        index_dtype: str,
        shard_rows: int,
        labelled: bool | None = None,
    ) -> None:
        if shard_rows < 1:
            raise ValueError(f"shard_rows is {shard_rows}; it must be at least 1")
        self.schema = schema
        self.index_dtype = index_dtype
        self.labelled = labelled
        self.shards: list[Shard] = []
        self.rows = 0
        self.positives = 0
        self._folder = folder
        self._filled = 0
        self._number = 0  # of the shard that is being filled
        self._buffers, self._spare = (
            (
                np.zeros(shard_rows, np.float32),
                np.zeros((shard_rows, schema.num_dense), np.float32),
                np.zeros((shard_rows, schema.num_categorical), index_dtype),
            )
            for _ in range(2)
        )
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._writing: Future[Shard] | None = None  # from the spare buffers

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, *error: object) -> None:
        self._thread.shutdown(wait=True)

    def agree_on_labels(self, path: Path, labelled: bool) -> None:
        """Note whether the source `path` is labelled; all sources of a dataset must be alike.

        Raises
        ------
        ParseError : an earlier source was different, or something else was asked for.
        """
        if self.labelled is not None and self.labelled != labelled:
            here, before = ("", "no ") if labelled else ("no ", "")
            raise ParseError(
                path,
                1,
                f"this file has {here}labels, but the sources before it have {before}labels, or "
                f"labelled={self.labelled} asked for that; ingest the two kinds into separate "
                "folders",
            )
        self.labelled = labelled

    def room(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Labels, dense and indices to be filled next, at least one row; then call `advance`."""
        labels, dense, indices = self._buffers
        free = slice(self._filled, None)
        return labels[free], dense[free], indices[free]

    def advance(self, rows: int) -> None:
        """Take the first `rows` rows of `room` as filled."""
        end = self._filled + rows
        labels = self._buffers[0]
        if self.labelled:
            self.positives += int(np.count_nonzero(labels[self._filled : end]))
        self.rows += rows
        self._filled = end
        if end == len(labels):
            self._write()

    def append(self, rows: Batch) -> None:
        """Copy `rows` in, to as many shards as they need."""
        start, total = 0, len(rows.dense)
        while start < total:
            labels, dense, indices = self.room()
            count = min(len(labels), total - start)
            part = slice(start, start + count)
            if rows.labels is not None:
                labels[:count] = rows.labels[part]
            dense[:count] = rows.dense[part]
            indices[:count] = rows.indices[part]
            self.advance(count)
            start += count

    def close(self) -> None:
        """Write the last shard, and wait until all of them are safely on the disk."""
        if self._filled:
            self._write()
        self._wait()

    def _write(self) -> None:
        """Begin to write the filled rows to the next shard, and go on with the other buffers."""
        self._wait()
        labels, dense, indices = (values[: self._filled] for values in self._buffers)
        rows = {"label": labels, "dense": dense, "indices": indices}
        columns = _arrow_schema(self.schema, bool(self.labelled), self.index_dtype)
        self._writing = self._thread.submit(
            _write_shard, self._folder, self._number, self.schema, columns, rows
        )
        self._buffers, self._spare = self._spare, self._buffers
        self._number += 1
        self._filled = 0

    def _wait(self) -> None:
        """Wait until the spare buffers are free; an error of their writing is raised here."""
        if self._writing:
            self.shards.append(self._writing.result())
            self._writing = None


def _write_shard(
    folder: Path, number: int, schema: Schema, fields: pa.Schema, rows: dict[str, np.ndarray]
) -> Shard:
    """Write the columns that `fields` names to one file, and see it safely on the disk."""
    path = folder / shard_name(number)
    columns = []
    crc32 = 0
    for field in fields:
        crc32 = zlib.crc32(rows[field.name].data, crc32)
        values = pa.array(rows[field.name].reshape(-1))
        if pa.types.is_fixed_size_list(field.type):
            values = pa.FixedSizeListArray.from_arrays(values, type=field.type)
        columns.append(values)
    fields = fields.with_metadata(_about(schema, number, crc32))
    batch = pa.record_batch(columns, schema=fields)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, fields) as writer:
        writer.write_batch(batch)
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
    return Shard(path.name, batch.num_rows, path.stat().st_size, crc32)


def open_shard(folder: Path, manifest: Manifest, number: int) -> Batch:
    """Map a shard of the dataset in `folder`; nothing is read but its footer.

    Raises
    ------
    FileNotFoundError : the shard is missing.
    DatasetError : it is cut off, damaged, or a shard of another dataset.
    """
    shard = manifest.shards[number]
    path = folder / shard.name
    remedy = "restore the file or ingest the log again"
    if not path.is_file():
        raise FileNotFoundError(f"the shard {path} is missing; {remedy}")
    size = path.stat().st_size
    if size != shard.bytes:
        raise DatasetError(f"{path} has {size} bytes, but should have {shard.bytes}; {remedy}")
    try:
        with pa.memory_map(str(path)) as source:
            reader = pa.ipc.open_file(source)
            batch = reader.get_batch(0)
        batch.validate()
    except (pa.ArrowException, OSError, IndexError) as error:
        raise DatasetError(f"{path} is not a readable shard ({error}); {remedy}") from None
    schema = manifest.schema
    expected = _arrow_schema(schema, manifest.labelled, manifest.index_dtype).with_metadata(
        _about(schema, number, shard.crc32)
    )
    if not batch.schema.equals(expected, check_metadata=True) or batch.num_rows != shard.rows:
        raise DatasetError(f"{path} belongs to another dataset; {remedy}")
    views = {
        name: getattr(column, "values", column).to_numpy()
        for name, column in zip(batch.schema.names, batch.columns, strict=True)
    }
    none = np.empty((shard.rows, 0), np.float32)
    return Batch(
        views.get("label"),
        views.get("dense", none).reshape(shard.rows, schema.num_dense),
        views.get("indices", none.astype(manifest.index_dtype)).reshape(
            shard.rows, schema.num_categorical
        ),
    )
