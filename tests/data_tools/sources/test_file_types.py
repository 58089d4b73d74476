"""Files are what their first bytes say: compressed streams are read, others are named."""

import bz2
import gzip
import io
import lzma
import sqlite3
import tarfile
import zipfile
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.orc
import pyarrow.parquet as pq
import pytest

import data_tools
from data_tools.schema import Schema
from data_tools.sources.file_types import HEAD_BYTES, other_than_text
from tests.data_tools.ingestion.test_ingest import SCHEMA, make_lines, shard_bytes
from tests.data_tools.ingestion.test_ingest_tables import SMALL, read_all

COMPRESS = {
    "gzip": gzip.compress,
    "bz2": bz2.compress,
    "xz": partial(lzma.compress, preset=0),
    "zstd": lambda text: pa.compress(text, "zstd", asbytes=True),
    "lz4": lambda text: pa.compress(text, "lz4", asbytes=True),
}
TEXT = "".join(f"{line}\n" for line in make_lines(400)).encode()


@pytest.mark.parametrize("name", COMPRESS)
def test_compressed_text_is_read_under_any_name(tmp_path, name):
    (tmp_path / "plain.tsv").write_bytes(TEXT)
    data_tools.ingest(tmp_path / "plain.tsv", tmp_path / "plain", schema=SCHEMA, shard_bytes=999)
    expected = shard_bytes(tmp_path / "plain")
    assert len(expected) > 2
    compress, half = COMPRESS[name], len(TEXT) // 2
    members = compress(TEXT[:half]) + compress(b"") + compress(TEXT[half:])
    for number, packed in enumerate((compress(TEXT), members)):
        for file in ("LOG.TSV", f"log.{name}", "log.gz"):
            source = tmp_path / file
            source.write_bytes(packed)
            for block_bytes in (100, 1 << 20):
                output = tmp_path / f"{number}-{file}-{block_bytes}"
                data_tools.ingest(
                    source, output, schema=SCHEMA, shard_bytes=999, block_bytes=block_bytes
                )
                assert shard_bytes(output) == expected


@pytest.mark.parametrize("name", COMPRESS)
def test_compressed_csv_goes_by_the_name_within(tmp_path, name):
    text = b"y,a,p\n" + b"".join(b"1,%d,%d\n" % (row, row) for row in range(1000))
    ending = {"gzip": "gz", "zstd": "zst"}.get(name, name)
    source = tmp_path / f"log.csv.{ending}"
    source.write_bytes(COMPRESS[name](text))
    assert data_tools.ingest(source, tmp_path / "out", schema=SMALL).rows == 1000
    assert read_all(tmp_path / "out").indices[:, 0].tolist() == list(range(1000))


@pytest.mark.parametrize("on_error", ["stop", "skip"])
@pytest.mark.parametrize("name", COMPRESS)
def test_a_damaged_stream_is_an_error(tmp_path, name, on_error):
    ids = np.random.default_rng(0).integers(0, 2**32, (70_000, 2)).tolist()
    lines = [b"0\t%08x\t%08x\n" % (first, second) for first, second in ids]
    packed = COMPRESS[name](b"".join(lines))
    members = packed + COMPRESS[name](b"".join(lines[:9]))
    damaged = {
        "half": packed[: len(packed) // 2],
        "end": packed[:-1],
        "second": members[:-3],
        "junk": packed + b"\x01junk after the stream",
        "text": packed + b"0\t1\t2\n",
    }
    if name in ("gzip", "bz2", "xz"):  # the others, as Arrow writes them, have no checksums
        other = bytearray(packed)
        other[len(packed) // 2] ^= 16
        damaged["flipped"] = bytes(other)
    for what, content in damaged.items():
        source = tmp_path / f"{what}.log"
        source.write_bytes(content)
        # Of flipped bytes a line may be made, which is bad.
        flipped = what == "flipped" and on_error == "stop"
        reason = None if flipped else "cut off or corrupt"
        with pytest.raises(data_tools.ParseError, match=reason) as caught:
            data_tools.ingest(
                source, tmp_path / "out", schema=Schema("y", (), ("p", "q")), on_error=on_error
            )
        # What was inflated in the MiB before the damage may be lost.
        low = 1 if what in ("half", "flipped") else len(lines) - (1 << 20) // len(lines[0])
        assert low <= caught.value.line <= len(lines) + 10
        assert not (tmp_path / "out").exists()


def test_zeros_may_pad_an_xz_stream(tmp_path):
    packed = lzma.compress(TEXT) + bytes(8) + lzma.compress(TEXT) + bytes(4)
    (tmp_path / "log.xz").write_bytes(packed)
    assert data_tools.ingest(tmp_path / "log.xz", tmp_path / "out", schema=SCHEMA).rows == 800


def test_a_name_may_promise_a_stream_that_is_none(tmp_path):
    # As left by programs that decompress what they download, and keep the name.
    (tmp_path / "log.tsv.gz").write_bytes(TEXT)
    assert data_tools.ingest(tmp_path / "log.tsv.gz", tmp_path / "out", schema=SCHEMA).rows == 400
    for content in (b"", b"\x1f", bytes(20), b"\x9f\x8b\x08\x00" + TEXT):
        (tmp_path / "log.bz2").write_bytes(content)
        with pytest.raises(data_tools.ParseError, match=r"cut off or corrupt .*\(the .bz2 file"):
            data_tools.ingest(tmp_path / "log.bz2", tmp_path / "new", schema=SCHEMA)


def zipped(text, method):
    """A zip archive of one file."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("log.tsv", text)
    return file.getvalue()


def tarred(text):
    """A tar archive of one file."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        member = tarfile.TarInfo("log.tsv")
        member.size = len(text)
        archive.addfile(member, io.BytesIO(text))
    return file.getvalue()


def written(write):
    """What `write` writes of a table to an Arrow sink."""
    sink = pa.BufferOutputStream()
    write(pa.table({"y": [0, 1], "a": [1, 2], "p": [3, 4]}), sink)
    return sink.getvalue().to_pybytes()


def ipc(new):
    """A writer of Arrow's own format."""

    def write(table, sink):
        with new(sink, table.schema) as writer:
            writer.write_table(table)

    return write


def sqlite(path):
    """A database."""
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE log (y, a, p)")
    connection.close()
    return path.read_bytes()


def numpy_file():
    """An array."""
    file = io.BytesIO()
    np.save(file, np.zeros(3))
    return file.getvalue()


OTHERS = {
    "zip": (zipped(TEXT, zipfile.ZIP_STORED), "a zip archive, .*; unpack it"),
    "deflated zip": (zipped(TEXT, zipfile.ZIP_DEFLATED), "a zip archive, .*; unpack it"),
    "tar": (tarred(TEXT), "a tar archive; unpack it with tar -xf"),
    "tar.gz": (gzip.compress(tarred(TEXT)), "decompressed, is a tar archive; unpack it with tar"),
    "tar.xz": (lzma.compress(tarred(TEXT)), "decompressed, is a tar archive; unpack it with tar"),
    "zip.bz2": (bz2.compress(zipped(TEXT, zipfile.ZIP_STORED)), "decompressed, is a zip archive"),
    "gz.gz": (gzip.compress(gzip.compress(TEXT)), "decompressed, is compressed by gzip;"),
    "parquet.gz": (gzip.compress(written(pq.write_table)), "decompressed, is Parquet;"),
    "feather": (
        written(ipc(pa.ipc.new_file)),
        r"Arrow IPC \(Feather\) file; convert it",
    ),
    "arrow stream": (written(ipc(pa.ipc.new_stream)), "a stream of Arrow IPC; convert it"),
    "orc": (written(pyarrow.orc.write_table), "an ORC file; convert it to Parquet or CSV"),
    "avro": (b"Obj\x01\x04\x16avro.schema", "an Avro file"),
    "hdf5": (b"\x89HDF\r\n\x1a\n\0\0\0", "an HDF5 file"),
    "xls": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1\0\0", "an old Excel workbook"),
    "npy": (numpy_file(), "a NumPy array"),
    "utf-32": ("y,a,p\n1,1,1\n".encode("utf-32"), "text in UTF-32; convert it with iconv"),
    "utf-16": ("y,a,p\n1,1,1\n".encode("utf-16"), "text in UTF-16; convert it with iconv"),
}


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("name", ["log", "log.csv", "log.parquet"])
def test_other_files_are_named(tmp_path, kind, name):
    content, message = OTHERS[kind]
    (tmp_path / name).write_bytes(content)
    if name == "log.parquet" and "decompressed" in message:
        message = "the file is not Parquet; it is compressed by .*; decompress it"
    for on_error in ("stop", "skip"):
        with pytest.raises(data_tools.ParseError, match=f":1: .*{message}"):
            data_tools.ingest(tmp_path / name, tmp_path / "out", schema=SMALL, on_error=on_error)
        assert not (tmp_path / "out").exists()


def test_a_database_is_named(tmp_path):
    sqlite(tmp_path / "log.db")
    with pytest.raises(data_tools.ParseError, match="an SQLite database; export its table as CSV"):
        data_tools.ingest(tmp_path / "log.db", tmp_path / "out")


@pytest.mark.parametrize("name", ["part-00000", "log.pq", "log.csv", "log.txt.gz"])
def test_parquet_is_read_under_any_name(tmp_path, name):
    (tmp_path / name).write_bytes(written(pq.write_table))
    assert data_tools.ingest(tmp_path / name, tmp_path / "out", schema=SMALL).rows == 2
    with pytest.raises(data_tools.ParseError, match=r'is Parquet; .* with format "auto"'):
        data_tools.ingest(tmp_path / name, tmp_path / "new", schema=SMALL, format="csv")


@pytest.mark.parametrize("word", ["PAR1", "ORC", "FEA1", "PK", "BZh9", "LZIP", "Obj"])
def test_a_column_may_be_named_as_a_format_begins(tmp_path, word):
    text = f"{word},y,a,p\n1,1,1,1\n".encode()
    assert other_than_text(text[:HEAD_BYTES]) is None
    (tmp_path / "log.csv").write_bytes(text)
    assert data_tools.ingest(tmp_path / "log.csv", tmp_path / "out", schema=SMALL).rows == 1
