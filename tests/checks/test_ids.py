"""Bad ids: an error that says which, and nothing written."""

import numpy as np
import pytest

import robe_numba as rn
from robe_numba import RobeSpec
from tests.support.inputs import FREE, INDICES, SPEC, advised, array, masked, strided


class Subclass(np.ndarray):
    """Stands for numpy.matrix and its like."""


BAD_INDICES = [
    (masked(INDICES), TypeError, "indices must be a NumPy array, got numpy.ma"),
    (INDICES.view(Subclass), TypeError, "indices must be a NumPy array, got tests"),
    (INDICES.tolist(), TypeError, "indices must be a NumPy array, got list"),
    (INDICES.astype(np.float32), TypeError, "indices has dtype float32"),
    (INDICES.astype(np.int16), TypeError, "indices has dtype int16"),
    (INDICES[:, :1].copy(), ValueError, r"indices has shape \(3, 1\)"),
    (INDICES[0], ValueError, r"indices has shape \(2,\)"),
    (strided(INDICES), ValueError, "indices is not C-contiguous"),
    (np.array([[1, 2], [3, 20]]), ValueError, r"indices\[1, 1\] is 20, but table 1 .*= 20"),
    (np.array([[-1, 2]]), ValueError, r"indices\[0, 0\] is -1, but table 0"),
    (np.array([[0, 2**64 - 1]], np.uint64), ValueError, r"indices\[0, 1\] is 18446744073709551615"),
]


@pytest.mark.parametrize(("bad", "error", "words"), BAD_INDICES)
def test_every_function_checks_the_indices_and_writes_nothing(bad, error, words):
    values, state = array(), np.zeros(100, np.float32)
    grad_out = np.ones((len(bad), 2, 8), np.float32)
    calls = [
        lambda: rn.block_starts(bad, SPEC),
        lambda: rn.lookup(values, bad, SPEC),
        lambda: rn.lookup_dot_interaction(values, bad, np.ones((len(bad), 8), np.float32), SPEC),
        lambda: rn.lookup_backward(grad_out, bad, SPEC),
        lambda: rn.sgd_update(values, grad_out, bad, SPEC),
        lambda: rn.adagrad_update(values, state, grad_out, bad, SPEC),
    ]
    for call in calls:
        with pytest.raises(error, match=words):
            call()
    np.testing.assert_array_equal(values, array())
    assert not state.any()


def test_without_sizes_every_64_bit_id_is_legal():
    ids = np.array([[0, 2**64 - 1], [2**63, 2**32]], np.uint64)
    signed = ids.view(np.int64)
    out = rn.lookup(array(), ids, FREE)
    np.testing.assert_array_equal(out, rn.lookup(array(), signed, FREE))


@pytest.mark.parametrize(
    ("dtype", "ids"),
    [
        (np.float64, [3_000_000_000, -1, 2**53]),
        (np.longdouble, [3_000_000_000, -1, 2**62]),
        (object, [3_000_000_000, -1, 2**62]),
        (">i8", [3_000_000_000, -1, 2**62]),
        (">u8", [3_000_000_000, 2**64 - 1]),
        (">u4", [3_000_000_000, 1]),
        (np.uint16, [65_535, 1]),
        (np.int8, [-128, 127]),
        (np.bool_, [False, True]),
    ],
)
def test_ids_stay_the_same_as_advised(dtype, ids):
    spec, wrong = RobeSpec(100, 4, 8, 1), np.array(ids, dtype)[:, None]
    words = np.array([[value % 2**64] for value in ids], np.uint64)
    right = advised("indices", wrong, lambda indices: rn.lookup(array(), indices, spec))
    np.testing.assert_array_equal(rn.block_starts(right, spec), rn.block_starts(words, spec))
    bags = wrong[:, 0], np.array([0, len(ids)]), spec
    right = advised("indices", bags[0], lambda ids: rn.embedding_bag(array(), ids, *bags[1:]))
    assert [value % 2**64 for value in right.tolist()] == words[:, 0].tolist()
    offsets = np.array([0.0, len(ids)])
    right = advised("offsets", offsets, lambda b: rn.embedding_bag(array(), right, b, spec))
    assert right.tolist() == [0, len(ids)]
