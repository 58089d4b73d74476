"""The formats of a dataset's files, and Parquet that others wrote: the same rows from all."""

import gc
import sys
from contextlib import suppress

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import data_tools
from data_tools.schema import Schema
from tests.data_tools.ingestion.test_ingest import SCHEMA, make_lines, write

ROWS = 20_000  # more than two blocks of Arrow
FORMATS = [(f, c) for f in ("arrow", "parquet") for c in ("none", "lz4", "zstd")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The same rows in every format."""
    folder = tmp_path_factory.mktemp("formats")
    source = write(folder / "log.tsv", make_lines(ROWS))
    for file_format, compression in FORMATS:
        data_tools.ingest(
            source,
            folder / f"{file_format}-{compression}",
            schema=SCHEMA,
            file_format=file_format,
            compression=compression,
            shard_bytes=400_000,
        )
    return folder


def everything(dataset, **options):
    """All rows as one batch, copied."""
    batches = [batch[:3] for batch in dataset.split("all").batches(3000, **options)]
    return [np.concatenate(parts) for parts in zip(*batches, strict=True)]


@pytest.mark.parametrize(("file_format", "compression"), FORMATS)
def test_every_format_gives_the_same_rows(folder, file_format, compression):
    name = f"{file_format}-{compression}"
    dataset = data_tools.Dataset(folder / name)
    assert data_tools.verify(folder / name) == []
    expected = everything(data_tools.Dataset(folder / "arrow-none"))
    for threads in (0, 2):
        for mine, wanted in zip(everything(dataset, threads=threads), expected, strict=True):
            assert mine.dtype == wanted.dtype
            np.testing.assert_array_equal(mine, wanted)
    row = np.arange(ROWS)[:, None]
    np.testing.assert_array_equal(expected[2], 256 * row + np.arange(5))
    np.testing.assert_allclose(expected[1], np.log(10 * row + np.arange(3) + 1), rtol=1e-6)


def test_compression_makes_files_smaller(folder):
    sizes = {
        name: sum(path.stat().st_size for path in (folder / name).glob("shards-0/*"))
        for name in ("arrow-none", "arrow-lz4", "arrow-zstd", "parquet-none", "parquet-zstd")
    }
    assert sizes["arrow-lz4"] < sizes["arrow-none"]
    assert sizes["arrow-zstd"] < sizes["arrow-none"]
    assert sizes["parquet-zstd"] < sizes["parquet-none"]


def test_only_mapped_arrow_is_not_copied(folder):
    first = next(data_tools.Dataset(folder / "arrow-none").split("all").batches(2048))
    assert not any(array.flags.owndata or array.flags.writeable for array in first[:3])
    assert (first.dense.shape, first.indices.shape) == ((2048, 3), (2048, 5))


def test_others_can_read_our_parquet(folder):
    table = pq.read_table(folder / "parquet-zstd" / "shards-0")
    assert table.schema.names == list(SCHEMA.names)
    np.testing.assert_array_equal(table.column("r").to_numpy(), 256 * np.arange(ROWS) + 2)


@pytest.mark.parametrize("name", ["arrow-lz4", "parquet-none"])
def test_a_damaged_block_is_no_crash_and_verify_tells(folder, tmp_path, name):
    source = write(tmp_path / "log.tsv", make_lines(ROWS))
    file_format, compression = name.split("-")
    data_tools.ingest(
        source, tmp_path / "out", schema=SCHEMA, file_format=file_format, compression=compression
    )
    (shard,) = (tmp_path / "out" / "shards-0").iterdir()
    content = bytearray(shard.read_bytes())
    middle = len(content) // 2
    content[middle - 3000 : middle + 3000] = bytes(6000)
    shard.write_bytes(content)
    dataset = data_tools.Dataset(tmp_path / "out")
    with suppress(data_tools.DatasetError):  # but no crash: zeros may also be decoded
        everything(dataset)
    assert len(data_tools.verify(tmp_path / "out")) == 1


@pytest.mark.parametrize("file_format", ["arrow", "parquet"])
def test_nothing_is_written_to_the_file_of_a_shard_that_a_bad_line_ended(
    tmp_path, monkeypatch, file_format
):
    """Arrow's writer closes itself when it is collected; that would print a traceback."""
    unraisable = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    source = write(tmp_path / "log.tsv", [*make_lines(ROWS), "bad"])
    with pytest.raises(data_tools.ParseError):
        data_tools.ingest(source, tmp_path / "out", schema=SCHEMA, file_format=file_format)
    gc.collect()
    assert unraisable == []
    assert not (tmp_path / "out").exists()


def write_as_others_do(folder):
    """As Spark and NVTabular leave it: several files, nullable columns, other files beside them."""
    folder.mkdir()
    rows = np.arange(1000)
    table = pa.table(
        {
            "extra": pa.array(["x"] * 1000),
            "user": pa.array(rows * 7, pa.int64()),
            "shop": pa.array([None if row % 5 == 0 else f"shop {row % 3}" for row in rows]),
            "price": pa.array(rows / 4, pa.float32()),
            "clicked": pa.array(rows % 2, pa.int8()),
        }
    )
    pq.write_table(table.slice(0, 600), folder / "part-00000-c0ffee.snappy.parquet",
                   row_group_size=250, compression="snappy")  # fmt: skip
    pq.write_table(table.slice(600), folder / "part-00001-c0ffee.snappy.parquet")
    (folder / "_SUCCESS").touch()
    return Schema("clicked", ("price",), ("user", "shop"))


def test_parquet_of_others_reads_as_it_stands(tmp_path):
    schema = write_as_others_do(tmp_path / "spark")
    dataset = data_tools.ParquetDataset(tmp_path / "spark", schema)
    assert (dataset.num_rows, dataset.labelled, dataset.click_rate) == (1000, True, None)
    files = sorted((tmp_path / "spark").glob("*.parquet"))
    data_tools.ingest(files, tmp_path / "own", schema=schema, dense_transform="none")
    for mine, wanted in zip(
        everything(dataset), everything(data_tools.Dataset(tmp_path / "own")), strict=True
    ):
        np.testing.assert_array_equal(mine, wanted)
    labels, dense, ids = everything(dataset)
    np.testing.assert_array_equal(labels, np.arange(1000) % 2)
    np.testing.assert_array_equal(dense[:, 0], np.arange(1000) / 4)
    np.testing.assert_array_equal(ids[:, 0], np.arange(1000) * 7)
    assert (ids[::5, 1] == 0).all()
    shuffled = everything(dataset, shuffle_seed=3, threads=2)
    assert sorted(shuffled[2][:, 0].tolist()) == ids[:, 0].tolist()
    assert dataset.split("test").num_rows == 100


def test_parquet_of_others_that_breaks_a_rule(tmp_path):
    schema = write_as_others_do(tmp_path / "spark")
    with pytest.raises(data_tools.ParseError, match="no column named age"):
        data_tools.ParquetDataset(tmp_path / "spark", Schema("clicked", ("age",), ()))
    with pytest.raises(FileNotFoundError, match=r"no files that end in .parquet"):
        data_tools.ParquetDataset(tmp_path, schema)
    table = pa.table({"clicked": [0, 2], "price": [1.0, 2.0], "user": [1, 2], "shop": ["a", "b"]})
    pq.write_table(table, tmp_path / "bad.parquet")
    dataset = data_tools.ParquetDataset(tmp_path / "bad.parquet", schema)
    with pytest.raises(data_tools.DatasetError, match=r"row 2 of row group 0: column clicked: the"):
        everything(dataset)
    (tmp_path / "text.parquet").write_text("no parquet")
    with pytest.raises(data_tools.ParseError, match="not readable"):
        data_tools.ParquetDataset(tmp_path / "text.parquet", schema)


def zigzag(number):
    """A number as Thrift's compact protocol writes it."""
    rest, out = 2 * number if number >= 0 else -2 * number - 1, bytearray()
    while rest > 127:
        out.append(rest & 127 | 128)
        rest >>= 7
    return bytes([*out, rest])


def with_footer(path, old, new):
    """Change every such number of a Parquet file's footer."""
    content = path.read_bytes()
    length = int.from_bytes(content[-8:-4], "little")
    footer = content[-8 - length : -8]
    assert b"\x16" + zigzag(old) in footer
    footer = footer.replace(b"\x16" + zigzag(old), b"\x16" + zigzag(new))
    path.write_bytes(content[: -8 - length] + footer + len(footer).to_bytes(4, "little") + b"PAR1")


@pytest.mark.parametrize("rows", [2**40, 2**62, -1])
def test_parquet_that_counts_more_rows_than_it_can_hold(tmp_path, rows):
    path = tmp_path / "log.parquet"
    table = pa.table({"y": [0.0, 1.0] * 1111, "a": [5.0] * 2222, "p": range(2222)})
    pq.write_table(table, path)
    schema = Schema("y", ("a",), ("p",))
    assert data_tools.ParquetDataset(path, schema).num_rows == 2222
    with_footer(path, 2222, rows)
    with pytest.raises(data_tools.ParseError, match=r"log.parquet:1: .*(counts .* rows|readable)"):
        data_tools.ParquetDataset(path, schema)


@pytest.mark.parametrize(
    ("size", "match"), [(2**60, "makes .* shards; .* is the most"), (-5, "row group has -5 bytes")]
)
def test_parquet_that_names_a_size_beyond_all_bounds_is_no_plan(tmp_path, size, match):
    path = tmp_path / "log.parquet"
    table = pa.table({"y": [0, 1], "a": [5, 6], "p": [7, 8]})
    pq.write_table(table, path, row_group_size=1)
    found = pq.ParquetFile(path).metadata.row_group(0).total_byte_size
    with_footer(path, found, size)
    with pytest.raises(ValueError, match=match):
        data_tools.ingest(path, tmp_path / "out", schema=Schema("y", ("a",), ("p",)))
    assert not (tmp_path / "out").exists()


def test_row_groups_of_our_own_parquet_have_the_rows_of_the_manifest(tmp_path):
    source = write(tmp_path / "log.tsv", make_lines(3000))
    data_tools.ingest(source, tmp_path / "out", schema=SCHEMA, file_format="parquet")
    (shard,) = (tmp_path / "out/shards-0").iterdir()
    before = shard.stat().st_size
    with_footer(shard, 3000, 5000)  # of as many digits
    assert shard.stat().st_size == before
    with pytest.raises(data_tools.DatasetError, match="has 5000 rows, but should have 3000"):
        everything(data_tools.Dataset(tmp_path / "out"))


def test_parquet_whose_columns_have_names_that_are_not_text(tmp_path):
    path = tmp_path / "log.parquet"
    pq.write_table(pa.table({"y": [0, 1], "column": [5, 6]}), path, store_schema=False)
    path.write_bytes(path.read_bytes().replace(b"column", b"c\xfflumn"))
    with pytest.raises(data_tools.ParseError, match=r"log.parquet:1: the parquet file is not"):
        data_tools.ParquetDataset(path, Schema("y", (), ("column",)))
    with pytest.raises(data_tools.ParseError, match=r"log.parquet:1: the parquet file is not"):
        data_tools.ingest(path, tmp_path / "out", schema=Schema("y", (), ("column",)))
