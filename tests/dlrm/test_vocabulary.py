"""The known ids of tables, and the rows they get."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robe_numba.dlrm import Vocabulary

tables = st.lists(
    st.sets(st.one_of(st.integers(0, 20), st.integers(0, 2**64 - 1)), max_size=20),
    min_size=1,
    max_size=3,
)


@given(tables, st.data())
def test_vocabulary_equals_a_dictionary(ids, data):
    vocabulary = Vocabulary.from_columns([np.array(sorted(s), np.uint64) for s in ids])
    number = [{value: row for row, value in enumerate(sorted(s), start=1)} for s in ids]
    assert vocabulary.num_embeddings == tuple(len(s) + 1 for s in ids)
    row = st.tuples(*(st.sampled_from([*sorted(s), 0, 1, 10, 2**63, 2**64 - 1]) for s in ids))
    batch = np.array(data.draw(st.lists(row, min_size=1, max_size=8)), np.uint64)
    expected = [[number[t].get(int(v), 0) for t, v in enumerate(values)] for values in batch]
    np.testing.assert_array_equal(vocabulary.rows(batch), expected)


@given(tables, st.data())
def test_rows_of_bags_equal_a_dictionary(ids, data):
    vocabulary = Vocabulary.from_columns([np.array(sorted(s), np.uint64) for s in ids])
    number = [{value: row for row, value in enumerate(sorted(s), start=1)} for s in ids]
    batch, values, sizes, expected = data.draw(st.integers(0, 3)), [], [], []
    for table, known in enumerate(ids):
        for _ in range(batch):
            wanted = st.sampled_from([*sorted(known), 0, 1, 10, 2**63, 2**64 - 1])
            bag = data.draw(st.lists(wanted, max_size=3))
            values, sizes = values + bag, [*sizes, len(bag)]
            expected += [number[table].get(value, 0) for value in bag]
    offsets = np.cumsum([0, *sizes]).astype(data.draw(st.sampled_from(["int32", "uint64"])))
    rows = vocabulary.bag_rows(np.array(values, np.uint64), offsets)
    assert rows.dtype == np.int64
    np.testing.assert_array_equal(rows, np.array(expected, np.int64))


def test_rows_of_many_bags_are_those_of_their_tables():
    """Enough ids for every thread; bags end within the threads' shares."""
    generator = np.random.default_rng(5)
    known = [np.unique(generator.integers(0, 900, 500)) for _ in range(3)]
    vocabulary = Vocabulary.from_columns(known)
    values = generator.integers(0, 900, 60_000)
    offsets = np.array([0, 7, 7, 20_011, 20_011, 20_012, 60_000])
    rows = vocabulary.bag_rows(values, offsets)
    for ids, (first, last) in zip(known, [(0, 7), (7, 20_011), (20_011, 60_000)], strict=True):
        places = {int(value): row for row, value in enumerate(ids, start=1)}
        assert rows[first:last].tolist() == [places.get(int(v), 0) for v in values[first:last]]


@pytest.mark.parametrize(
    ("indices", "offsets", "error", "message"),
    [
        ([[1], [2]], [0, 1, 2], ValueError, "bags take one dimension"),
        ([1, 2], [0, 1], ValueError, "offsets has shape"),
        ([1, 2], [0, 1, 3], ValueError, "offsets ends at 3 but there are 2 indices"),
        ([1, 2], [0, 3, 2], ValueError, "offsets falls from 3 to 2"),
        ([1.0, 2.0], [0, 1, 2], TypeError, "indices has dtype float64"),
    ],
)
def test_bags_that_do_not_fit_are_an_error(indices, offsets, error, message):
    vocabulary = Vocabulary(np.array([1, 2, 3], np.uint64), np.array([0, 1, 3]))
    with pytest.raises(error, match=message):
        vocabulary.bag_rows(np.array(indices), np.array(offsets))


def test_signed_ids_are_the_words_they_are_stored_as():
    vocabulary = Vocabulary.from_columns([np.array([5, 2**64 - 2], np.uint64)])
    np.testing.assert_array_equal(vocabulary.rows(np.array([[-2], [5], [-1]])), [[2], [1], [0]])


@pytest.mark.parametrize(
    ("ids", "offsets", "error", "message"),
    [
        ([1, 1], [0, 2], ValueError, "not strictly increasing"),
        ([2, 1], [0, 2], ValueError, "not strictly increasing"),
        ([1, 2], [0, 3], ValueError, "offsets end at 3"),
        ([1, 2], [0, 3, 2], ValueError, "offsets must rise"),
        ([1, 2], [1, 2], ValueError, "offsets must rise"),
        ([1, 2], [0], ValueError, "offsets must rise"),
        ([1, 2], [0.0, 2.0], TypeError, "offsets has dtype float64"),
    ],
)
def test_a_damaged_vocabulary_is_an_error(ids, offsets, error, message):
    with pytest.raises(error, match=message):
        Vocabulary(np.array(ids, np.uint64), np.array(offsets))
