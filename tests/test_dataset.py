"""Datasets: what is refused when one is opened, how rows are divided, and in which order."""

import json
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import data_tools
from data_tools.batch import Batch
from data_tools.schema import Schema
from data_tools.split import Split, permutation

SCHEMA = Schema("y", ("a", "b"), ("p", "q", "r"))
ROWS = 103


def ingest(folder, rows=ROWS, first=0, **options):
    """Make a dataset whose ids and dense values tell the row."""
    lines = [
        f"{row % 2}\t{row}\t{-row}\t{row:x}\t{row // 10:x}\t{2**32 - 1 - row:x}\n"
        for row in range(first, first + rows)
    ]
    source = folder.with_suffix(".tsv")
    source.write_text("".join(lines))
    options = {"schema": SCHEMA, "shard_rows": 20, "dense_transform": "none"} | options
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
        assert all(array.flags.c_contiguous for array in batch)
    return np.concatenate([np.empty(0, np.int64), *(b.indices[:, 0] for b in batches)]).tolist()


sizes = st.integers(1, 250)
fractions = st.lists(st.integers(0, 5), min_size=3, max_size=3).filter(any)


def test_what_a_dataset_tells(dataset):
    assert dataset.num_rows == ROWS
    assert dataset.labelled
    assert dataset.click_rate == 51 / 103
    assert dataset.schema == SCHEMA
    assert "103 rows, labelled" in repr(dataset)


@given(size=sizes, drop_last=st.booleans())
def test_in_order(dataset, size, drop_last):
    batches = list(dataset.split("all").batches(size, drop_last=drop_last))
    count = ROWS - ROWS % size if drop_last else ROWS
    assert row_numbers(batches) == list(range(count))
    assert all(len(batch.dense) == size for batch in batches[:-1])


def test_batches_within_a_shard_are_views(dataset):
    views = [not batch.dense.flags.owndata for batch in dataset.split("all").batches(8)]
    # Shards have 20 rows: the batches of rows 16-23, 32-39 (to its end), 56-63 ... go over.
    over = [start // 20 != (min(start + 8, ROWS) - 1) // 20 for start in range(0, ROWS, 8)]
    assert views == [not goes_over for goes_over in over]
    first = next(dataset.split("all").batches(8))
    with pytest.raises(ValueError, match="read-only"):
        first.dense[0, 0] = 1


@given(size=sizes, seed=st.integers(0, 2**70), epoch=st.integers(0, 9), drop_last=st.booleans())
def test_a_shuffle_has_every_row_once_and_is_repeatable(dataset, size, seed, epoch, drop_last):
    split = dataset.split("train", fractions=(0.7, 0.2, 0.1))
    rows = row_numbers(split.batches(size, shuffle_seed=seed, epoch=epoch))
    assert sorted(rows) == list(range(72))
    assert row_numbers(split.batches(size, shuffle_seed=seed, epoch=epoch)) == rows
    # The batch size changes where the order is cut, not the order.
    assert row_numbers(split.batches(5, shuffle_seed=seed, epoch=epoch)) == rows
    kept = row_numbers(split.batches(size, shuffle_seed=seed, epoch=epoch, drop_last=drop_last))
    assert kept == (rows[: 72 - 72 % size] if drop_last else rows)
    assert row_numbers(split.batches(size, shuffle_seed=seed, epoch=epoch + 1)) != rows
    assert row_numbers(split.batches(size, shuffle_seed=seed + 1, epoch=epoch)) != rows


def test_shuffles_reach_every_place_evenly(dataset):
    split = dataset.split("all")
    places = np.array([row_numbers(split.batches(ROWS, 7, epoch)) for epoch in range(400)])
    # Mean of a uniform place has standard error 29.7 / 20 = 1.5; six of them for 103 columns.
    assert np.abs(places.mean(axis=0) - 51).max() < 9
    assert len({tuple(order) for order in places.tolist()}) == 400


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


def test_gathers_larger_than_one_fetch(monkeypatch, dataset):
    whole = row_numbers(dataset.split("all").batches(7, shuffle_seed=5))
    monkeypatch.setattr("data_tools.split.GATHER_ROWS", 16)
    assert row_numbers(dataset.split("all").batches(7, shuffle_seed=5)) == whole


def test_permutation_type_and_content():
    assert permutation(5, (1,)).dtype == np.uint32
    assert sorted(permutation(1000, (1, 2)).tolist()) == list(range(1000))
    assert permutation(0, (1,)).size == 0


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
    split = dataset.split("all")
    with pytest.raises(ValueError, match="batch_size is 0"):
        split.batches(0)
    with pytest.raises(ValueError, match="must not be negative"):
        split.batches(1, shuffle_seed=-1)


def test_a_split_of_many_rows_needs_no_shard_of_its_own():
    shards = [Batch(None, np.full((n, 1), n, "f4"), np.zeros((n, 1), "u8")) for n in (1, 5, 2)]
    (batch,) = Split(shards, range(1, 7)).batches(9)
    np.testing.assert_array_equal(batch.dense[:, 0], [5] * 5 + [2])
    assert batch.labels is None


@pytest.fixture
def broken(tmp_path):
    ingest(tmp_path / "log", rows=50)
    return tmp_path / "log"


def edit_manifest(folder, **changes):
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_no_dataset(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        data_tools.Dataset(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match=r"has no manifest.json.*did not finish"):
        data_tools.Dataset(tmp_path)


def test_broken_manifests(broken):
    edit_manifest(broken, rows=49)
    with pytest.raises(data_tools.DatasetError, match="counts 49 rows, but its shards hold 50"):
        data_tools.Dataset(broken)
    edit_manifest(broken, rows=50, surprise=1)
    with pytest.raises(data_tools.DatasetError, match=r"not valid.*surprise"):
        data_tools.Dataset(broken)
    edit_manifest(broken, format_version=1)
    with pytest.raises(data_tools.DatasetError, match="format_version is 1"):
        data_tools.Dataset(broken)
    ingest(broken.parent / "again", rows=50)
    record = json.loads((broken.parent / "again" / "manifest.json").read_text())
    for key, value in (
        ("name", "../log/part-00000.arrow"),
        ("name", "part-00001.arrow"),
        ("rows", "20"),
        ("bytes", None),
        ("crc32", 0.5),
    ):
        shards = [record["shards"][0] | {key: value}, *record["shards"][1:]]
        edit_manifest(broken, **record | {"shards": shards})
        with pytest.raises(data_tools.DatasetError, match="ingest the log again"):
            data_tools.Dataset(broken)
    for text in ("", "{", "[]"):
        (broken / "manifest.json").write_text(text)
        with pytest.raises(data_tools.DatasetError, match=r"is not (a )?JSON"):
            data_tools.Dataset(broken)


def test_broken_shards(broken, tmp_path):
    shard = broken / "part-00001.arrow"
    good = shard.read_bytes()
    shard.write_bytes(good[:-1])
    with pytest.raises(
        data_tools.DatasetError, match=f"has {len(good) - 1} bytes, but should have"
    ):
        data_tools.Dataset(broken)
    shard.write_bytes(bytes(len(good)))
    with pytest.raises(data_tools.DatasetError, match="not a readable shard"):
        data_tools.Dataset(broken)
    # A shard of the same size, but from another place.
    shutil.copy(broken / "part-00000.arrow", shard)
    with pytest.raises(data_tools.DatasetError, match="belongs to another dataset"):
        data_tools.Dataset(broken)
    other_schema = Schema("y", ("a", "B"), ("p", "q", "r"))
    ingest(tmp_path / "other", rows=50, schema=other_schema)
    shutil.copy(tmp_path / "other" / shard.name, shard)
    with pytest.raises(data_tools.DatasetError, match="belongs to another dataset"):
        data_tools.Dataset(broken)
    # The same schema, place, rows and size, but other values.
    ingest(tmp_path / "later", rows=50, first=1)
    shutil.copy(tmp_path / "later" / shard.name, shard)
    assert shard.stat().st_size == len(good)
    with pytest.raises(data_tools.DatasetError, match="belongs to another dataset"):
        data_tools.Dataset(broken)
    shard.write_bytes(good)
    assert data_tools.Dataset(broken).num_rows == 50
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=r"part-00001.arrow is missing"):
        data_tools.Dataset(broken)
