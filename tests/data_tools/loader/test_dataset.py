"""Datasets: what they tell, and how their rows are divided and read."""

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import data_tools
from data_tools.schema import Schema
from tests.support.forking import forks, holds_in_a_child

SCHEMA = Schema("y", ("a", "b"), ("p", "q", "r"))
ROWS = 103
LINE_BYTES = 40  # of every line, so that a shard has 20 rows


def ingest(folder, rows=ROWS, first=0, **options):
    """Make a dataset whose ids and dense values tell the row."""
    lines = [
        f"{row % 2}\t{row:04d}\t{-row:05d}\t{row:08x}\t{row // 10:08x}\t{2**32 - 1 - row:08x}\n"
        for row in range(first, first + rows)
    ]
    source = folder.with_suffix(".tsv")
    source.write_text("".join(lines))
    options = {
        "schema": SCHEMA,
        "shard_bytes": 20 * LINE_BYTES,
        "dense_transform": "none",
    } | options
    data_tools.ingest(source, folder, **options)
    return data_tools.Dataset(folder)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return ingest(tmp_path_factory.mktemp("dataset") / "log")


def row_numbers(batches):
    """Rows of the batches in order; every column must tell the same row."""
    batches = list(batches)
    for batch in batches:
        row = batch.indices[:, 0].astype(np.int64)
        np.testing.assert_array_equal(batch.labels, row % 2)
        np.testing.assert_array_equal(batch.dense, np.stack([row, -row], axis=1))
        np.testing.assert_array_equal(batch.indices[:, 1], row // 10)
        np.testing.assert_array_equal(batch.indices[:, 2], 2**32 - 1 - row)
        assert batch.labels.dtype == batch.dense.dtype == np.float32
        assert batch.indices.dtype == np.uint32
        assert all(array.flags.c_contiguous for array in batch[:3])
        assert batch.multi_hot is None
    return np.concatenate([np.empty(0, np.int64), *(b.indices[:, 0] for b in batches)]).tolist()


fractions = st.lists(st.integers(0, 5), min_size=3, max_size=3).filter(any)


@forks
@pytest.mark.parametrize("file_format", ["arrow", "parquet", "foreign"])
def test_a_dataset_is_read_while_it_is_read(file_format, tmp_path):
    """By a signal handler that comes between, and by a process that is forked meanwhile."""
    wanted = "parquet" if file_format == "foreign" else file_format
    dataset = ingest(tmp_path / "log", file_format=wanted)
    if file_format == "foreign":
        dataset = data_tools.ParquetDataset(next(tmp_path.glob("log/shards-*")), SCHEMA)
    entered, leave, found = threading.Event(), threading.Event(), []

    def read():
        batches = dataset.split("train", (1, 0, 0)).batches(50, threads=0)
        return [row for batch in batches for row in batch.indices[:, 0]] == list(range(ROWS))

    def read_within():
        with dataset._readers[0]._lock:
            found.append(read())
            entered.set()
            leave.wait(30)

    thread = threading.Thread(target=read_within, daemon=True)
    thread.start()
    assert entered.wait(10)
    found.append(holds_in_a_child(read))
    leave.set()
    thread.join()
    assert found == [True, True]


def test_what_a_dataset_tells(dataset):
    assert dataset.num_rows == ROWS
    assert dataset.labelled
    assert dataset.click_rate == 51 / 103
    assert dataset.schema == SCHEMA
    assert "103 rows, labelled" in repr(dataset)


@given(parts=fractions, by=st.sampled_from(["order", "random"]), seed=st.integers(0, 9))
def test_splits_are_disjoint_and_cover_all_rows(dataset, parts, by, seed):
    shares = tuple(part / sum(parts) for part in parts)
    rows = []
    for name, share in zip(("train", "validation", "test"), shares, strict=True):
        split = dataset.split(name, fractions=shares, by=by, seed=seed)
        mine = row_numbers(split.batches(16))
        assert split.num_rows == len(mine)
        assert abs(len(mine) - share * ROWS) <= 1
        assert mine == sorted(mine)
        np.testing.assert_array_equal(split.labels(), np.array(mine) % 2)
        assert sorted(row_numbers(split.batches(16, shuffle_seed=1))) == mine
        rows += mine
    assert sorted(rows) == list(range(ROWS))
    if by == "order":
        assert rows == sorted(rows)


def test_a_random_split_depends_on_its_seed_alone(dataset):
    def rows(seed):
        return row_numbers(dataset.split("test", (0.5, 0.2, 0.3), "random", seed).batches(50))

    assert rows(1) == rows(1)
    assert rows(1) != rows(2)


def test_unique_ids(dataset):
    split = dataset.split("validation", (0.5, 0.3, 0.2))  # rows 52 to 81
    np.testing.assert_array_equal(split.unique_ids(1), [5, 6, 7, 8])
    assert split.unique_ids(1).dtype == np.uint32
    random = dataset.split("train", (0.3, 0.3, 0.4), "random", 3)
    expected = sorted({row // 10 for row in row_numbers(random.batches(9))})
    np.testing.assert_array_equal(random.unique_ids(1), expected)
    for column in (-1, 3):
        with pytest.raises(IndexError, match="3 categorical columns"):
            split.unique_ids(column)


def test_no_rows(tmp_path):
    source = tmp_path / "log.csv"
    source.write_text("y,a,b,p,q,r\n")
    data_tools.ingest(source, tmp_path / "out", schema=SCHEMA)
    empty = data_tools.Dataset(tmp_path / "out")
    assert (empty.num_rows, empty.click_rate) == (0, None)
    for by in ("order", "random"):
        split = empty.split("train", by=by)
        assert list(split.batches(4)) == list(split.batches(4, shuffle_seed=1)) == []
        assert split.labels().shape == (0,)
        assert split.unique_ids(2).dtype == np.uint64


def test_columns_of_one_kind_only(tmp_path):
    source = tmp_path / "log.tsv"
    source.write_text("1\t5\n0\t6\n")
    data_tools.ingest(
        source, tmp_path / "d", schema=Schema("y", ("a",), ()), dense_transform="none"
    )
    (batch,) = data_tools.Dataset(tmp_path / "d").split("all").batches(2)
    np.testing.assert_array_equal(batch.dense, [[5], [6]])
    assert batch.indices.shape == (2, 0)
    data_tools.ingest(source, tmp_path / "c", schema=Schema("y", (), ("p",)))
    (batch,) = data_tools.Dataset(tmp_path / "c").split("all").batches(2)
    np.testing.assert_array_equal(batch.indices, [[5], [6]])
    assert batch.dense.shape == (2, 0)


def test_wrong_arguments(dataset):
    with pytest.raises(ValueError, match="no split 'valid'; choose train, validation, test or all"):
        dataset.split("valid")
    with pytest.raises(ValueError, match="by is 'time'"):
        dataset.split("train", by="time")
    with pytest.raises(ValueError, match="must not be negative"):
        dataset.split("train", by="random", seed=-1)
    for shares in ((0.8, 0.1), (0.8, 0.1, 0.2), (1.2, -0.1, -0.1), (float("nan"), 0.5, 0.5)):
        with pytest.raises(ValueError, match="three shares"):
            dataset.split("train", fractions=shares)


def test_no_dataset(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        data_tools.Dataset(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match=r"has no manifest.json.*did not finish"):
        data_tools.Dataset(tmp_path)


def test_batches_of_all_rows(dataset):
    assert row_numbers(dataset.batches(16)) == list(range(ROWS))
    shuffled = row_numbers(dataset.batches(16, shuffle_seed=3, threads=0))
    assert shuffled != sorted(shuffled) == list(range(ROWS))
    with pytest.raises(ValueError, match="batch_size is 0"):
        next(dataset.batches(0))
