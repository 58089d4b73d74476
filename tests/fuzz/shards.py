"""Any edits of the bytes of a shard with lists: an error, or rows that are safe to index.

python -m tests.fuzz.shards -runs=1000000 CORPUS
"""

import io
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa

from tests.fuzz import harness

with harness.guided(__name__):
    from data_tools.batch import Lists, Rows
    from data_tools.errors import DatasetError
    from data_tools.format.manifest import BLOCK_ROWS, ListFacts, Manifest, Shard, Source
    from data_tools.format.shard_reader import open_shard
    from data_tools.format.shard_writer import ChecksummedFile, Layout, shard_writer
    from data_tools.options import Options
    from data_tools.schema import Schema

SCHEMA = Schema("y", ("a",), ("p",), ("tags", "seen"), (None, "w"))
FORMS = [("arrow", "none"), ("arrow", "lz4"), ("parquet", "none")]
ROWS = 5
EDIT = 4  # bytes: the place, three of them, and the value
LENGTHS = (np.arange(ROWS) % 3, np.arange(ROWS)[::-1] % 4)


class MemoryFolder:
    """A folder with one shard, as its reader sees it."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def path(self, name: str) -> str:
        """Address of the shard, for messages."""
        return f"memory/{name}"

    def size(self, name: str) -> int:
        """Bytes of the shard."""
        return len(self._content)

    def open(self, name: str) -> pa.BufferReader:
        """Open the shard for reading."""
        return pa.BufferReader(self._content)


@cache
def shard(file_format: str, compression: str) -> tuple[bytes, Manifest]:
    """A valid shard of one block, and the manifest of its dataset."""
    name = f"part-000-00000.{file_format}"
    lists = []
    for lengths in LENGTHS:
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        count = int(offsets[-1])
        weights = np.ones(count, np.float32) if lists else None
        lists.append(Lists(np.arange(count, dtype=np.uint64), offsets, weights))
    floats, ids = np.ones((ROWS, 1), np.float32), np.ones((ROWS, 1), np.uint64)
    file = io.BytesIO()
    sink = ChecksummedFile(file)
    layout = Layout(SCHEMA, True, "uint64", file_format, compression)
    with shard_writer(sink, layout, name) as writer:
        writer.write(Rows(floats[:, 0].copy(), floats, ids, tuple(lists)))
    options = Options(file_format=file_format, compression=compression)
    stored = Shard(name, ROWS, sink.size, sink.crc32, 0)
    return file.getvalue(), Manifest(
        SCHEMA, (Source("log", 1),), options, ROWS, ROWS, 0, True, "uint64", "shards-0",
        BLOCK_ROWS[file_format], (stored,), (), "", tuple(ListFacts(sum(n)) for n in LENGTHS),
    )  # fmt: skip


def case_bytes(form: int, *edits: tuple[int, int]) -> bytes:
    """Make the bytes of a case: a form, and edits as places and values."""
    return bytes([form]) + b"".join(at.to_bytes(3, "big") + bytes([to]) for at, to in edits)


def check(data: bytes) -> None:
    """Edit a shard and read it; raises AssertionError, or what reading should not raise."""
    form = FORMS[(data[0] if data else 0) % len(FORMS)]
    good, manifest = shard(*form)
    content = bytearray(good)
    for start in range(1, len(data) - EDIT + 1, EDIT):
        place = int.from_bytes(data[start : start + 3], "big") % len(content)
        content[place] = data[start + 3]
    folder: Any = MemoryFolder(bytes(content))
    try:
        rows = open_shard(folder, manifest, 0).read(0)
    except DatasetError as error:
        if "part-000-00000" not in str(error):
            raise AssertionError(f"an error that names no file: {error}") from error
        return
    assert rows.labels is not None
    assert (len(rows.labels), rows.dense.shape, rows.indices.shape) == (ROWS, (ROWS, 1), (ROWS, 1))
    for lists in rows.lists:
        ends = lists.offsets.tolist()
        assert len(ends) == ROWS + 1
        assert ends[0] >= 0
        assert ends == sorted(ends)
        assert ends[-1] <= len(lists.values)
    weights = rows.lists[1].weights
    assert rows.lists[0].weights is None
    assert weights is not None
    assert len(weights) >= rows.lists[1].offsets[-1]


SEEDS = [case_bytes(form) for form in range(len(FORMS))]
SEEDS += [case_bytes(form, (at, 255)) for form in range(len(FORMS)) for at in range(0, 3000, 300)]

if __name__ == "__main__":
    harness.fuzz(check, SEEDS)
