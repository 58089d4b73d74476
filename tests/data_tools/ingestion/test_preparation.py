"""What published results do to ids, dense values and days, from the text to the batch."""

import math

import numpy as np
import pytest

import data_tools
from tests.data_tools.ingestion.test_ingest import SCHEMA, write
from tests.data_tools.ingestion.test_resume import SIZE

RARE = 2**32 - 1


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """A log, its ids as a list of rows; in two files of several shards each."""
    folder = tmp_path_factory.mktemp("preparation")
    rng = np.random.default_rng(5)
    ids = np.stack([rng.zipf(1.3, 400) % 2**32 for _ in range(5)], axis=1).tolist()
    lines = ["1\t5\t\t-1\t" + "\t".join(f"{i:x}" if i else "" for i in row) for row in ids]
    sources = [write(folder / "a.tsv", lines[:250]), write(folder / "b.gz", lines[250:])]
    return sources, ids


def read(log, folder, **options):
    sources, _ = log
    data_tools.ingest(sources, folder, schema=SCHEMA, shard_bytes=SIZE, **options)
    assert data_tools.verify(folder) == []
    (batch,) = data_tools.Dataset(folder).split("all").batches(400)
    return batch.indices.tolist()


def prepared(ids, max_ind_range, by_appearance, min_count):
    """The rules, one after the other."""
    columns = []
    for column in zip(*ids, strict=True):
        column = [i % max_ind_range for i in column] if max_ind_range else list(column)
        kept = {i for i in column if column.count(i) >= min_count}
        numbers = {}
        for i in column:
            if i in kept:
                numbers.setdefault(i, len(numbers) if by_appearance else i)
        rare = len(numbers) if by_appearance else max_ind_range or RARE
        columns.append([numbers.get(i, rare) for i in column])
    return [list(row) for row in zip(*columns, strict=True)]


@pytest.mark.parametrize("max_ind_range", [None, 50])
@pytest.mark.parametrize("ids", ["raw", "appearance"])
@pytest.mark.parametrize("min_count", [1, 3])
def test_ids(log, tmp_path, max_ind_range, ids, min_count):
    found = read(log, tmp_path / "out", max_ind_range=max_ind_range, ids=ids, min_count=min_count)
    assert found == prepared(log[1], max_ind_range, ids == "appearance", min_count)
    manifest = data_tools.Dataset(tmp_path / "out").manifest
    assert bool(manifest.vocabulary) == (ids == "appearance" or min_count > 1)
    assert not (tmp_path / "out" / ".ingest").exists()


def test_later_rows_get_the_numbers_of_the_first(log, tmp_path):
    options = {"ids": "appearance", "min_count": 2}
    first = read(log, tmp_path / "first", **options)
    _, ids = log
    later = write(tmp_path / "later.tsv", ["0\t\t\t\t1\tdeadbeef\t\t1\t2"])
    data_tools.ingest(
        later, tmp_path / "later", schema=SCHEMA, vocabulary=tmp_path / "first", **options
    )
    (batch,) = data_tools.Dataset(tmp_path / "later").split("all").batches(1)
    for column, wanted in enumerate((1, 0xDEADBEEF, 0, 1, 2)):
        rows = [row for row, values in enumerate(ids) if values[column] == wanted]
        rare = len({v[column] for v in ids if sum(w[column] == v[column] for w in ids) > 1})
        assert batch.indices[0, column] == (first[rows[0]][column] if rows else rare)
    same = data_tools.Dataset(tmp_path / "first").manifest.vocabulary
    assert data_tools.Dataset(tmp_path / "later").manifest.vocabulary == same
    with pytest.raises(ValueError, match="made with min_count = 2, but this ingest has 3"):
        data_tools.ingest(
            later, tmp_path / "no", schema=SCHEMA, vocabulary=tmp_path / "first",
            ids="appearance", min_count=3,
        )  # fmt: skip
    read(log, tmp_path / "raw")
    with pytest.raises(ValueError, match="has no vocabulary"):
        data_tools.ingest(later, tmp_path / "no", schema=SCHEMA, vocabulary=tmp_path / "raw")
    assert not (tmp_path / "no").exists()


def test_a_log_that_replaces_another_has_ids_of_its_own(log, tmp_path):
    """The third has its files where the first had them."""
    sources, ids = log
    for rows in (slice(0, 100), slice(100, 200), slice(200, 250)):
        lines = sources[0].read_text().splitlines()[rows]
        part = [write(tmp_path / "part.tsv", lines)], ids[rows]
        found = read(part, tmp_path / "out", ids="appearance", overwrite=True)
        assert found == prepared(part[1], None, True, 1)


DENSE = {
    "log1p": lambda x: math.log(max(x, 0) + 1),
    "none": float,
    "log3": lambda x: math.log(max(x, -2) + 3),
    "log-squared": lambda x: math.floor(math.log(x) ** 2) if x > 2 else x,
}


@pytest.mark.parametrize("transform", DENSE)
def test_dense_transforms(tmp_path, transform):
    values = [0, 1, 2, 3, 7, 8, 1000, 10**6, 2**40, -1, -2, -3, -(10**6)]
    lines = [f"1\t{value}\t\t0" + "\t" * 5 for value in values]
    source = write(tmp_path / "log.tsv", lines)
    data_tools.ingest(source, tmp_path / "out", schema=SCHEMA, dense_transform=transform)
    (batch,) = data_tools.Dataset(tmp_path / "out").split("all").batches(len(values))
    expected = [[DENSE[transform](x), DENSE[transform](0), DENSE[transform](0)] for x in values]
    np.testing.assert_allclose(batch.dense, expected, rtol=2e-7)


def test_days(log, tmp_path):
    """Sources are days: of the last one the first half tests and the rest validates."""
    sources, _ = log
    data_tools.ingest(sources, tmp_path / "out", schema=SCHEMA, shard_bytes=SIZE)
    dataset = data_tools.Dataset(tmp_path / "out")
    everything, *parts = (
        np.concatenate([b.indices for b in dataset.split(name, by="day").batches(64)])
        for name in ("all", "train", "test", "validation")
    )
    assert [len(part) for part in parts] == [250, 75, 75]
    np.testing.assert_array_equal(np.concatenate(parts), everything)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ids": "hash"}, "ids is 'hash'; choose one of raw, appearance"),
        ({"min_count": 0}, "min_count is 0; it must be a whole number from 1"),
        ({"max_ind_range": 2**32}, "max_ind_range is 4294967296"),
        ({"dense_transform": "log"}, "dense_transform is 'log'; choose one of log1p"),
        ({"compression": "gzip"}, "compression is 'gzip'; choose one of none, lz4, zstd"),
        ({"file_format": "orc"}, "file_format is 'orc'; choose one of arrow, parquet"),
        ({"shard_bytes": 0}, "shard_bytes is 0"),
        ({"threads": 0}, "threads is 0"),
    ],
)
def test_wrong_options(log, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        data_tools.ingest(log[0], tmp_path / "out", schema=SCHEMA, **options)
    assert not (tmp_path / "out").exists()
