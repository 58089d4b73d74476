"""Datasets with lists, from files to mini-batches of one process and of several."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import data_tools
from data_tools.schema import Schema
from tests.data_tools.loader.test_batches import check_lists, list_of
from tests.data_tools.loader.test_peers import assert_same, on_ranks
from tests.support.forking import forks, holds_in_a_child

pytestmark = pytest.mark.usefixtures("small_windows", "no_thread_stays")

SCHEMA = Schema("y", ("a",), ("p",), ("s", "t"), (None, "w"))
ROWS = 150


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A log in Parquet whose columns tell the row."""
    folder = tmp_path_factory.mktemp("lists")
    rows = range(ROWS)
    (folder / "log").mkdir()
    for day, part in enumerate((rows[:60], rows[60:61], rows[61:])):
        columns = {
            "y": [r % 2 for r in part],
            "a": [float(r) for r in part],
            "p": list(part),
            "s": [list_of(r, 0)[0] for r in part],
            "t": [list_of(r, 1)[0] for r in part],
            "w": pa.array([list_of(r, 1)[1] for r in part], pa.list_(pa.float32())),
        }
        pq.write_table(pa.table(columns), folder / "log" / f"{day}.parquet", row_group_size=13)
    return folder


@pytest.fixture(scope="module", params=["arrow-none", "arrow-lz4", "parquet-zstd", "foreign"])
def dataset(request, folder):
    if request.param == "foreign":
        return data_tools.ParquetDataset(folder / "log", SCHEMA)
    file_format, compression = request.param.split("-")
    options = {"file_format": file_format, "compression": compression, "shard_bytes": 2000}
    sources = sorted((folder / "log").iterdir())
    out = folder / request.param
    data_tools.ingest(sources, out, schema=SCHEMA, dense_transform="none", **options)
    return data_tools.Dataset(out)


def row_numbers(batches):
    """Rows of the batches in order; every column must tell the same row."""
    found = []
    for batch in batches:
        rows = batch.indices[:, 0].tolist()
        assert batch.dense[:, 0].tolist() == rows
        assert batch.labels.tolist() == [row % 2 for row in rows]
        check_lists(batch, rows)
        found += rows
    return found


def ids_of(rows, feature):
    return sorted({i for row in rows for i in list_of(row, feature)[0]})


@pytest.mark.parametrize("by", ["order", "random", "day"])
def test_splits(dataset, by):
    everything = []
    for name in ("train", "validation", "test"):
        part = dataset.split(name, by=by)
        rows = row_numbers(part.batches(16))
        for threads in (0, 2):
            assert row_numbers(part.batches(16, threads=threads)) == rows
            mixed = row_numbers(part.batches(16, 5, threads=threads))
            assert sorted(mixed) == rows
            assert (
                row_numbers(part.batches(16, 5, first=1, drop_last=True))
                == (mixed[16 : len(mixed) // 16 * 16])
            )
        assert part.labels().tolist() == [row % 2 for row in rows]
        assert part.unique_ids(0).tolist() == rows
        assert [part.unique_ids(c).tolist() for c in (1, 2)] == [ids_of(rows, f) for f in (0, 1)]
        everything += rows
    assert sorted(everything) == list(range(ROWS))


@pytest.mark.parametrize("by", ["order", "random"])
@pytest.mark.parametrize("size", [2, 3])
def test_several_processes(dataset, by, size):
    part = dataset.split("train", by=by)
    shared = on_ranks(size, lambda peers: list(part.batches(16, 2, 1, peers=peers)))
    assert_same(shared, list(part.batches(16, 2, 1)))
    parts = [part.part(rank, size) for rank in range(size)]
    assert row_numbers(b for each in parts for b in each.batches(7)) == row_numbers(
        part.batches(16)
    )


@forks
def test_a_forked_process_reads_on(dataset):
    batches = dataset.batches(10, shuffle_seed=1, threads=2)
    first = row_numbers(next(batches) for _ in range(3))
    assert holds_in_a_child(lambda: sorted(first + row_numbers(batches)) == list(range(ROWS)))
    assert sorted(first + row_numbers(batches)) == list(range(ROWS))


def test_the_ids_of_a_single_feature_are_not_copied(folder, tmp_path):
    """Where a batch is within a block of a mapped file."""
    schema = Schema("y", ("a",), ("p",), ("s",))
    sources = sorted((folder / "log").iterdir())
    data_tools.ingest(sources, tmp_path / "out", schema=schema, dense_transform="none")
    dataset = data_tools.Dataset(tmp_path / "out")
    assert row_numbers(dataset.batches(20)) == list(range(ROWS))
    batch, longer = next(dataset.batches(20)), next(dataset.batches(30))
    assert not batch.values.flags.writeable
    assert np.shares_memory(batch.values, longer.values)
