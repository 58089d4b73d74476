"""Columns of lists of every type: the ids of their items as single columns have them."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import data_tools
from data_tools.batch import Lists
from data_tools.schema import Schema
from data_tools.sources import list_columns
from data_tools.sources.list_buffer import ListBuffer, last_ids
from tests.data_tools.sources.test_column_types import TYPES
from tests.support import bags, slow_csv

SCHEMA = Schema("y", (), (), ("p",))
LISTS = {
    "list": pa.list_,
    "large_list": pa.large_list,
    "list_view": pa.list_view,
    "large_list_view": pa.large_list_view,
}


def bags_of(lists):
    ends = lists.offsets.tolist()
    weights = [1.0] * len(lists.values) if lists.weights is None else lists.weights.tolist()
    pairs = list(zip(lists.values.tolist(), weights, strict=True))
    return [pairs[ends[row] : ends[row + 1]] for row in range(len(ends) - 1)]


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("stored", [True, False])
def test_items_have_the_ids_of_their_texts(tmp_path, kind, stored):
    """Lists of both values and a null, of none, and a null list, which may hide values."""
    items, texts = TYPES[kind]
    items = pa.concat_arrays([items, pa.nulls(1, items.type), items])
    count = len(items)
    offsets = pa.array([0, count, count, count], pa.int32())
    column = pa.ListArray.from_arrays(offsets, items)
    hidden = pa.ListArray.from_arrays(
        pa.array([0, 1, count], pa.int32()), items, mask=pa.array([True, False])
    )
    table = pa.table({"y": [1, 0, 1, 0, 1], "p": pa.concat_arrays([column, hidden])})
    pq.write_table(table, tmp_path / "log.parquet", store_schema=stored, row_group_size=2)
    data_tools.ingest(tmp_path / "log.parquet", tmp_path / "out", schema=SCHEMA)
    expected = [slow_csv.categorical(text.encode(), "texts") for text in [*texts, "", *texts]]
    (batch,) = data_tools.Dataset(tmp_path / "out").batches(9)
    found = [[value for value, _ in bag] for bag in bags.bags_of(batch, 1)[0]]
    assert found == [expected, [], [], [], expected[1:]]


numbers = st.lists(st.none() | st.lists(st.none() | st.integers(-9, 2**40), max_size=5), max_size=9)


@given(rows=numbers, kind=st.sampled_from(sorted(LISTS)), cut=st.integers(0, 3))
def test_lists_of_every_layout(rows, kind, cut):
    """Also of a part of an array, whose first offset is not 0."""
    column = pa.array(rows, LISTS[kind](pa.int64())).slice(cut)
    found, faults = list_columns.lists(column, None, None, None)
    assert faults == ([], [], [])
    expected = [[(item or 0) % 2**64 for item in bag or []] for bag in rows[cut:]]
    assert [[value for value, _ in bag] for bag in bags_of(found)] == expected


@given(rows=st.lists(st.none() | st.lists(st.integers(0, 9), min_size=3, max_size=3), max_size=9))
def test_lists_of_a_fixed_size(rows):
    column = pa.array(rows, pa.list_(pa.int8(), 3))
    found, _ = list_columns.lists(column, column, None, None)
    assert bags_of(found) == [[(item, item) for item in bag or []] for bag in rows]


def test_faults_are_rows_and_the_lists_stay_whole():
    ids = pa.array([[1.0, 2.5], [3.0], [4.0, 5.0], [6.0], None, [7.0]])
    weights = pa.array([[1, 2], [1, 2], [1, None], None, [1], [-1e39]], pa.list_(pa.float64()))
    found, faults = list_columns.lists(ids, weights, None, None)
    assert faults == ([0], [1, 3, 4], [2, 5])
    assert len(found.values) == len(found.weights) == 5
    assert np.diff(found.offsets).tolist() == [2, 0, 2, 0, 0, 1]
    assert bags_of(found)[0] == [(1, 1.0), (0, 2.0)]


weighted = st.lists(
    st.lists(st.tuples(st.integers(0, 9), st.floats(width=32, allow_nan=False)), max_size=7),
    min_size=1,
    max_size=20,
)


@given(rows=weighted, most=st.integers(1, 8), first=st.integers(0, 3), use=st.booleans())
def test_the_last_ids_of_lists(rows, most, first, use):
    flat = [pair for bag in [[(0, 0.0)] * first, *rows] for pair in bag]  # others come before
    offsets = np.cumsum([first, *map(len, rows)])
    weights = np.array([weight for _, weight in flat], np.float32) if use else None
    lists = Lists(np.array([value for value, _ in flat], np.uint64), offsets, weights)
    found, longer = last_ids(lists, most)
    assert longer == sum(len(bag) > most for bag in rows)
    expected = bags.last(rows, most)
    if not use:
        expected = [[(value, 1.0) for value, _ in bag] for bag in expected]
    assert bags_of(found) == expected


@given(parts=st.lists(weighted, max_size=4), most=st.none() | st.integers(1, 4))
@settings(max_examples=40)
def test_a_buffer_grows_with_its_lists_and_begins_again(parts, most):
    buffer = ListBuffer("uint64", True, 99, most)
    everything = []
    for block in range(2):
        rows = []
        for part in parts:
            values = np.array([value for bag in part for value, _ in bag], np.uint64)
            weights = np.array([weight for bag in part for _, weight in bag], np.float32)
            offsets = np.cumsum([0, *map(len, part)])
            buffer.append(Lists(values, offsets, weights), len(rows))
            rows += bags.last(part, most or 99)
        assert bags_of(buffer.first(len(rows))) == rows, block
        everything += rows
    lengths = [len(bag) for bag in everything]
    assert (buffer.ids, buffer.longest) == (sum(lengths), max(lengths, default=0))
    longer = sum(len(bag) > (most or 99) for part in parts for bag in part)
    assert buffer.shortened == 2 * longer
