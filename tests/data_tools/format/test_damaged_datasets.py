"""Damaged datasets: what is refused when one is opened, and what `verify` finds."""

import json
import shutil
import time
import tracemalloc

import numpy as np
import pytest

import data_tools
from data_tools.schema import Schema
from tests.data_tools.loader.test_dataset import LINE_BYTES, ROWS, SCHEMA, ingest


@pytest.fixture
def broken(tmp_path):
    ingest(tmp_path / "log", rows=50)
    return tmp_path / "log"


def edit_manifest(dataset, /, **changes):
    path = dataset / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


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
