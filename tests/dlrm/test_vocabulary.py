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
