"""Lists of ids in shards: what is written is read, and what is damaged is refused."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import data_tools
from data_tools.batch import Lists, Rows
from data_tools.format import list_columns
from data_tools.format.manifest import BLOCK_ROWS, ListFacts, Manifest, Shard, Source, created_by
from data_tools.format.names import shard_name
from data_tools.format.shard_reader import no_rows, open_shard
from data_tools.format.shard_writer import ChecksummedFile, Layout, count_rows, shard_writer
from data_tools.options import Options
from data_tools.schema import Schema
from data_tools.storage.folders import folder_at

# Columns may have the names of those in an Arrow shard.
SCHEMA = Schema("y", (), ("p",), ("lists.1", "weights.0", "indices"), (None, "w", None))
FORMATS = [(f, c) for f in ("arrow", "parquet") for c in ("none", "lz4", "zstd")]


def lists_of(bags, weights=None):
    """A multi-hot column of the given lists."""
    offsets = np.cumsum([0, *map(len, bags)])
    values = np.array([value for bag in bags for value in bag], np.uint64)
    if weights is not None:
        weights = np.array([weight for bag in weights for weight in bag], np.float32)
    return Lists(values, offsets, weights)


def bags_of(lists):
    """Each list of a column, as pairs of ids and weights."""
    weights = np.ones(len(lists.values)) if lists.weights is None else lists.weights
    ends = lists.offsets.tolist()
    pairs = list(zip(lists.values.tolist(), weights.tolist(), strict=True))
    return [pairs[first:last] for first, last in pairwise(ends)]


def make(folder, blocks, file_format="arrow", compression="none", schema=SCHEMA):
    """A dataset of one shard with the given blocks, written as an ingest does."""
    (folder / "shards-0").mkdir(parents=True)
    layout = Layout(schema, True, "uint64", file_format, compression)
    name = shard_name(0, 0, file_format)
    with open(folder / "shards-0" / name, "wb") as file:
        sink = ChecksummedFile(file)
        with shard_writer(sink, layout, name) as writer:
            for block in blocks:
                writer.write(block)
    rows = sum(len(block.dense) for block in blocks)
    facts = [
        ListFacts(
            sum(len(block.lists[n].values) for block in blocks),
            max(int(np.diff(block.lists[n].offsets).max()) for block in blocks),
            0,
        )
        for n in range(schema.num_multi_hot)
    ]
    shard = Shard(name, rows, sink.size, sink.crc32, 0)
    manifest = Manifest(
        schema, (Source("log", 1),), Options(file_format=file_format, compression=compression),
        rows, 0, 0, True, "uint64", "shards-0", BLOCK_ROWS[file_format], (shard,), (), created_by(),
        tuple(facts),
    )  # fmt: skip
    manifest.save(folder_at(str(folder)))
    return manifest


def block_of(bags, weights, schema=SCHEMA):
    """Rows whose multi-hot columns have the given lists; the second has weights."""
    rows = len(bags[0])
    lists = tuple(lists_of(each, weights if n == 1 else None) for n, each in enumerate(bags))
    zeros = np.zeros((rows, 0), np.float32)
    return Rows(np.zeros(rows, np.float32), zeros, np.zeros((rows, 1), np.uint64), lists)


ids = st.integers(0, 2**64 - 1)
bags = st.lists(ids, max_size=6)


@pytest.mark.parametrize(("file_format", "compression"), FORMATS)
@given(columns=st.lists(st.tuples(bags, bags, bags), min_size=1, max_size=9), data=st.data())
@settings(max_examples=15)
def test_lists_are_read_as_they_were_written(
    tmp_path_factory, file_format, compression, columns, data
):
    bags = list(zip(*columns, strict=True))
    weights = [[data.draw(st.floats(width=32, allow_nan=False)) for _ in bag] for bag in bags[1]]
    folder = tmp_path_factory.mktemp("log")
    manifest = make(folder, [block_of(bags, weights)], file_format, compression)
    assert data_tools.verify(folder) == []
    assert Manifest.from_json(manifest.to_json()) == manifest
    assert manifest.ids_per_row == tuple(sum(map(len, bag)) / len(columns) for bag in bags)
    reader = open_shard(folder_at(str(folder)), manifest, 0)
    lists = reader.read(0).lists
    assert [each.values.dtype for each in lists] == 3 * [np.uint64]
    assert [each.weights is None for each in lists] == [True, False, True]
    ones = [[[1.0] * len(bag) for bag in column] for column in bags]
    for mine, column, weighed in zip(lists, bags, [ones[0], weights, ones[2]], strict=True):
        assert bags_of(mine) == [
            list(zip(bag, each, strict=True)) for bag, each in zip(column, weighed, strict=True)
        ]


def test_mapped_lists_are_views(tmp_path):
    rows = 2 * BLOCK_ROWS["arrow"]
    block = block_of([[[1, 2]] * (rows // 2)] * 3, [[0.5, 2]] * (rows // 2))
    manifest = make(tmp_path / "log", [block, block])
    reader = open_shard(folder_at(str(tmp_path / "log")), manifest, 0)
    for each in reader.read(1).lists:
        for array in (each.values, each.offsets, each.weights):
            assert array is None or not (array.flags.owndata or array.flags.writeable)
        assert each.offsets.tolist() == list(range(0, rows + 1, 2))
    layout = Layout(SCHEMA, True, "uint64", "arrow", "none")
    with folder_at(str(tmp_path / "log")).open("shards-0/part-000-00000.arrow") as file:
        assert count_rows(file, layout) == rows


def test_no_rows_have_empty_lists():
    lists = no_rows(SCHEMA, True, "uint64").lists
    assert [bags_of(each) for each in lists] == [[], [], []]
    assert [each.weights is None for each in lists] == [True, False, True]
    assert no_rows(Schema("y", ("a",), ()), True, "uint32").lists == ()


def test_offsets_that_are_not_in_order_or_leave_the_values_are_refused(tmp_path):
    rows = 101
    block = block_of(
        [[[7] * (row % 3) for row in range(rows)]] * 3, [[1] * (r % 3) for r in range(rows)]
    )
    manifest = make(tmp_path / "log", [block])
    (path,) = (tmp_path / "log/shards-0").iterdir()
    good = path.read_bytes()
    offsets = block.lists[0].offsets.astype(np.int32)
    places = [at for at in range(len(good)) if good.startswith(offsets.tobytes(), at)]
    assert len(places) == 4  # three columns, one of which has weights
    for begin in places:
        for place, value in ((50, -1), (50, 0), (50, 2**31 - 1), (0, 1000), (rows, 1000), (0, -1)):
            changed = offsets.copy()
            changed[place] = value
            content = good[:begin] + changed.tobytes() + good[begin + changed.nbytes :]
            path.write_bytes(content)
            with pytest.raises(data_tools.DatasetError, match="is damaged"):
                open_shard(folder_at(str(tmp_path / "log")), manifest, 0).read(0)
    # In order and inside, but the weights are no longer those of their ids.
    begin = places[2]
    changed = offsets.copy()
    changed[1] = 1
    path.write_bytes(good[:begin] + changed.tobytes() + good[begin + changed.nbytes :])
    with pytest.raises(data_tools.DatasetError, match=r"weights.1 has lists of other lengths"):
        open_shard(folder_at(str(tmp_path / "log")), manifest, 0).read(0)


def test_nulls_are_refused():
    for column in (
        pa.array([[1], None], pa.list_(pa.uint64())),
        pa.array([[1], [None]], pa.list_(pa.uint64())),
    ):
        with pytest.raises(pa.ArrowInvalid):
            list_columns.from_arrays([("lists.0", None)], {"lists.0": column})


def test_a_manifest_that_contradicts_itself_about_lists(tmp_path):
    manifest = make(tmp_path / "log", [block_of([[[1]], [[2, 3]], [[]]], [[1, 1]])])
    record = manifest.to_json()
    for lists in (
        record["lists"][:2],
        [{"ids": 1, "longest": 2, "shortened": 0}] * 3,
        [{"ids": 9, "longest": 2, "shortened": 2}] * 3,
        [{"ids": -1, "longest": None, "shortened": None}] * 3,
        [{"ids": 9, "longest": None, "shortened": 0}] * 3,
        [{"ids": 9, "longest": 2}] * 3,
    ):
        with pytest.raises(data_tools.DatasetError, match=r"multi-hot|not valid|shortened"):
            Manifest.from_json(record | {"lists": lists})
    del record["lists"]
    with pytest.raises(data_tools.DatasetError, match="0 multi-hot columns, but has 3"):
        Manifest.from_json(record)


def test_verify_counts_the_ids_of_lists(tmp_path):
    manifest = make(tmp_path / "log", [block_of([[[1]], [[2, 3]], [[]]], [[1, 1]])])
    for wrong in (ListFacts(3, 2, 0), ListFacts(2, 1, 0)):
        lists = (manifest.lists[0], wrong, manifest.lists[2])
        replace(manifest, lists=lists).save(folder_at(str(tmp_path / "log")))
        (problem,) = data_tools.verify(tmp_path / "log")
        assert "ids of weights.0," in problem
        assert "the shards have 2 and 2" in problem


def test_more_ids_than_offsets_can_count_are_refused():
    huge = Lists(np.empty(0, np.uint64), np.array([0, 2**31]), None)
    with pytest.raises(ValueError, match=r"2,147,483,648 ids .* max_length"):
        list_columns.to_arrays([("a", None)], [huge])
