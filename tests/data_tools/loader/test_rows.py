"""Rows selected, joined and made a batch, against Python's lists."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data_tools.batch import Lists, Rows
from data_tools.rows import batch_of, concatenate, take

WEIGHTED = (False, True, False)  # the features of the rows


@st.composite
def plain_rows(draw):
    """Some rows as Python has them: a number, and for each feature a list of ids."""
    lengths = st.lists(st.sampled_from([0, 0, 1, 2, 5, 40]), min_size=3, max_size=3)
    rows = draw(st.lists(lengths, max_size=8))
    first = draw(st.integers(0, 10**6))
    return [
        (first + number, [list(range(first, first + length)) for length in row])
        for number, row in enumerate(rows)
    ]


def weights_of(ids):
    return [i % 8 / 4 for i in ids]


@st.composite
def stored(draw, rows, dtype, features):
    """The same rows as arrays; offsets may begin above 0, and values go on after the last."""
    lists = []
    for feature in range(features):
        before, after = draw(st.integers(0, 3)), draw(st.integers(0, 3))
        ids = [i for _, own in rows for i in own[feature]]
        values = np.array([7] * before + ids + [7] * after, dtype)
        offsets = np.cumsum([before, *(len(own[feature]) for _, own in rows)])
        weights = None
        if WEIGHTED[feature]:
            weights = np.array([9] * before + weights_of(ids) + [9] * after, np.float32)
        values.flags.writeable = draw(st.booleans())
        lists.append(Lists(values, offsets.astype(draw(st.sampled_from(["i4", "i8"]))), weights))
    numbers = np.array([number for number, _ in rows], np.float32)
    dense = np.stack([numbers, -numbers], axis=1)
    indices = numbers.astype(dtype)[:, None]
    return Rows(numbers, dense, indices, tuple(lists))


def plain(rows):
    """Arrays as Python's rows again."""
    lists = [
        [
            each.values[begin:end].tolist()
            for begin, end in zip(each.offsets[:-1], each.offsets[1:], strict=True)
        ]
        for each in rows.lists
    ]
    for each, weighted in zip(rows.lists, WEIGHTED, strict=False):
        assert (each.weights is not None) == weighted
        if weighted:
            own = slice(int(each.offsets[0]), int(each.offsets[-1]))
            assert each.weights.dtype == np.float32
            assert each.weights[own].tolist() == weights_of(each.values[own].tolist())
    np.testing.assert_array_equal(rows.dense, np.stack([rows.labels, -rows.labels], axis=1))
    np.testing.assert_array_equal(rows.indices[:, 0], rows.labels)
    return [(int(number), [own[row] for own in lists]) for row, number in enumerate(rows.labels)]


def of_features(rows, features):
    return [(number, own[:features]) for number, own in rows]


dtypes, counts = st.sampled_from([np.uint32, np.uint64]), st.integers(0, 3)


@given(plain_rows(), dtypes, counts, st.data())
def test_take(rows, dtype, features, data):
    arrays = data.draw(stored(rows, dtype, features))
    rows = of_features(rows, features)
    assert plain(arrays) == rows
    begin, end = data.draw(st.integers(0, 9)), data.draw(st.integers(0, 9))
    assert plain(take(arrays, slice(begin, end))) == rows[begin:end]
    chosen = data.draw(st.permutations(range(len(rows))))[: data.draw(st.integers(0, 8))]
    found = take(arrays, np.array(chosen, np.int64))
    assert plain(found) == [rows[number] for number in chosen]
    assert all(each.values.dtype == dtype for each in found.lists)


@given(st.lists(plain_rows(), min_size=1, max_size=4), dtypes, counts, st.data())
def test_concatenate(parts, dtype, features, data):
    arrays = [data.draw(stored(part, dtype, features)) for part in parts]
    rows = [row for part in parts for row in of_features(part, features)]
    assert plain(concatenate(arrays)) == rows
    order = data.draw(st.permutations(range(len(rows))))[: data.draw(st.integers(0, 30))]
    found = concatenate(arrays, np.array(order, np.int64))
    assert plain(found) == [rows[number] for number in order]
    for each in found.lists:
        assert each.values.dtype == dtype
        assert each.offsets.dtype == np.int64
        assert int(each.offsets[0]) == 0


@given(plain_rows(), dtypes, counts, st.data())
def test_batch_of(rows, dtype, features, data):
    batch = batch_of(data.draw(stored(rows, dtype, features)))
    if not features:
        assert batch.multi_hot is None
        return
    lists = [own[feature] for feature in range(features) for _, own in rows]
    assert batch.values.tolist() == [i for own in lists for i in own]
    assert batch.values.dtype == dtype
    assert batch.offsets.tolist() == np.cumsum([0, *map(len, lists)]).tolist()
    assert batch.offsets.dtype == np.int64
    if not any(WEIGHTED[:features]):
        assert batch.weights is None
        return
    expected = [
        weight
        for feature in range(features)
        for _, own in rows
        for weight in (weights_of(own[feature]) if WEIGHTED[feature] else [1.0] * len(own[feature]))
    ]
    assert batch.weights.tolist() == expected
    assert batch.weights.dtype == np.float32
