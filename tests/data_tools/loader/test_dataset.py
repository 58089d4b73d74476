"""Datasets: what is refused when one is opened, and how rows are divided."""

import json
import shutil
import threading
import time
import tracemalloc

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
        assert all(array.flags.c_contiguous for array in batch)
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


@pytest.fixture
def broken(tmp_path):
    ingest(tmp_path / "log", rows=50)
    return tmp_path / "log"


def edit_manifest(dataset, /, **changes):
    path = dataset / "manifest.json"
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
    edit_manifest(broken, **{"rows": 50, "folder": "../log"})
    with pytest.raises(data_tools.DatasetError, match=r"it names '../log'"):
        data_tools.Dataset(broken)
    edit_manifest(broken, **{"folder": "shards-0", "surprise": 1})
    with pytest.raises(data_tools.DatasetError, match=r"not valid.*surprise"):
        data_tools.Dataset(broken)
    edit_manifest(broken, format_version=1)
    with pytest.raises(data_tools.DatasetError, match="format_version is 1"):
        data_tools.Dataset(broken)
    ingest(broken.parent / "again", rows=50)
    record = json.loads((broken.parent / "again" / "manifest.json").read_text())
    for key, value in (
        ("name", "../log/part-000-00000.arrow"),
        ("name", "part-000-00001.arrow"),
        ("source", 1),
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
    shard = broken / "shards-0" / "part-000-00001.arrow"
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
    shutil.copy(broken / "shards-0" / "part-000-00000.arrow", shard)
    with pytest.raises(data_tools.DatasetError, match="belongs to another dataset"):
        data_tools.Dataset(broken)
    other_schema = Schema("y", ("a", "B"), ("p", "q", "r"))
    ingest(tmp_path / "other", rows=50, schema=other_schema)
    shutil.copy(tmp_path / "other" / "shards-0" / shard.name, shard)
    with pytest.raises(data_tools.DatasetError, match="belongs to another dataset"):
        data_tools.Dataset(broken)
    shard.write_bytes(good)
    assert data_tools.Dataset(broken).num_rows == 50
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=r"part-000-00001.arrow is missing"):
        data_tools.Dataset(broken)


def flip_a_bit(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)


def test_verify_finds_what_is_wrong_with_each_file(broken, tmp_path):
    assert data_tools.verify(broken) == []
    folder = broken / "shards-0"
    first, second, third = sorted(folder.glob("*.arrow"))
    good = second.read_bytes()
    # Any flipped bit, whatever it belongs to: metadata, values, padding, footer.
    for place in range(0, len(good), 97):
        flip_a_bit(second, place)
        (problem,) = data_tools.verify(broken)
        assert problem.startswith(f"{second} ")
        assert "was changed" in problem or "of another dataset" in problem or "damaged" in problem
        flip_a_bit(second, place)
    assert data_tools.verify(broken) == []
    # The same schema, place, rows and size, but other values.
    ingest(tmp_path / "later", rows=50, first=1)
    shutil.copy(tmp_path / "later" / "shards-0" / first.name, first)
    flip_a_bit(second, -40)
    third.write_bytes(third.read_bytes()[:-7])
    (folder / "mine.arrow").write_text("mine")
    problems = data_tools.verify(broken)
    assert len(problems) == 4
    assert "was changed" in problems[0]
    assert problems[2] == f"{third} is cut off: it has {third.stat().st_size} of " + (
        f"{third.stat().st_size + 7} bytes"
    )
    assert problems[3].startswith(f"{folder / 'mine.arrow'} is not a file of this dataset")
    third.unlink()
    flip_a_bit(second, -40)
    shutil.copy(second, first)
    problems = data_tools.verify(broken)
    assert problems[0] == f"{first} is a shard of another dataset"
    assert problems[1] == f"{third} is missing"
    calls = []
    data_tools.verify(broken, lambda *call: calls.append(call))
    assert calls == sorted(calls)
    assert calls[-1][0] == calls[-1][1] > 0


@pytest.mark.parametrize("file_format", ["arrow", "parquet"])
def test_verify_finds_a_manifest_of_which_the_files_know_nothing(tmp_path, file_format):
    """Every file is as it was written, but what the manifest says of them is not true."""
    out = tmp_path / "out"
    ingest(out, file_format=file_format)
    good = json.loads((out / "manifest.json").read_text())
    last = good["shards"][-1]
    fewer = [*good["shards"][:-1], last | {"rows": last["rows"] - 1}]
    for changes in (
        {"block_rows": 1},
        {"labelled": False},
        {"index_dtype": "uint64"},
        {"shards": fewer, "rows": good["rows"] - 1},
    ):
        (out / "manifest.json").write_text(json.dumps(good | changes))
        problems = data_tools.verify(out)
        assert problems, changes
        assert "belongs to another dataset" in problems[-1] or "should have" in problems[-1]
    (out / "manifest.json").write_text(json.dumps(good))
    assert data_tools.verify(out) == []


def test_a_vocabulary_that_was_changed_is_not_taken_over(tmp_path):
    old = ingest(tmp_path / "old", ids="appearance")
    options = {"schema": SCHEMA, "dense_transform": "none", "ids": "appearance"}
    options |= {"vocabulary": tmp_path / "old", "shard_bytes": 20 * LINE_BYTES}
    path = tmp_path / "old" / old.manifest.folder / "vocabulary-001.arrow"
    ids = np.arange(ROWS // 10 + 1, dtype=np.uint32).tobytes()
    flip_a_bit(path, path.read_bytes().index(ids) + len(ids) - 1)  # they still increase
    with pytest.raises(data_tools.DatasetError, match=r"vocabulary-001.arrow is not as it was"):
        data_tools.ingest(tmp_path / "old.tsv", tmp_path / "new", **options)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(data_tools.DatasetError, match=r"vocabulary-001.arrow is not as it was"):
        data_tools.ingest(tmp_path / "old.tsv", tmp_path / "new", **options)


@pytest.mark.parametrize("file_format", ["arrow", "parquet"])
def test_rows_that_a_file_cannot_hold_are_refused_before_there_is_room_for_them(
    tmp_path, file_format
):
    ingest(tmp_path / "log", rows=10, shard_bytes=1000, file_format=file_format)
    path = tmp_path / "log/manifest.json"
    record = json.loads(path.read_text())
    for block_rows, rows in ((1, 2 * 10**9), (1, 2**62), (8192, 2**62), (2**31, 2**31), (1, 10)):
        (shard,) = record["shards"]
        changed = {"block_rows": block_rows, "rows": rows, "positives": 5}
        edit_manifest(tmp_path / "log", **changed, shards=[shard | {"rows": rows}])
        tracemalloc.start()
        with pytest.raises(data_tools.DatasetError, match=r"another dataset|block_rows is"):
            data_tools.Dataset(tmp_path / "log")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
        tracemalloc.stop()


def test_a_manifest_of_very_many_files_or_columns_is_read_at_once(broken):
    record = json.loads((broken / "manifest.json").read_text())
    shard = record["shards"][0]
    many = [shard | {"name": f"part-000-{number:05d}.arrow"} for number in range(50_000)]
    schema = record["schema"] | {"dense": [f"d{number}" for number in range(50_000)]}
    rows = 50_000 * shard["rows"]
    edit_manifest(broken, shards=many, rows=rows, schema=schema)
    begin = time.monotonic()
    problems = data_tools.verify(broken)
    assert time.monotonic() - begin < 20  # comparing all with all takes minutes
    assert len(problems) > 49_990


def test_batches_of_all_rows(dataset):
    assert row_numbers(dataset.batches(16)) == list(range(ROWS))
    shuffled = row_numbers(dataset.batches(16, shuffle_seed=3, threads=0))
    assert shuffled != sorted(shuffled) == list(range(ROWS))
    with pytest.raises(ValueError, match="batch_size is 0"):
        next(dataset.batches(0))
