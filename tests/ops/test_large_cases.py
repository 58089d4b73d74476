"""The digests by which a GPU's results are judged: the oracle's, and the host's kernels have them.

Some of the smaller arrays, which take seconds; a GPU's tests check all.
"""

import json

import numpy as np
import pytest

import robe_numba as rn
from tests.gpu.large_cases import (
    CASES,
    DIGESTS,
    SPECS,
    array_of,
    check,
    digest,
    ids_of,
    whole_gradients,
)
from tests.support import naive


def test_every_case_has_a_digest():
    assert list(json.loads(DIGESTS.read_text())) == list(CASES)


def test_the_oracle_gives_the_digests():
    name = "aligned short blocks"
    for case in (f"starts, {name}", f"rows, {name}, float16", f"gradient, {name}, frequent ids"):
        assert digest(CASES[case]()) == json.loads(DIGESTS.read_text())[case], case


@pytest.mark.parametrize("name", ["short blocks", "signs, odd sizes"])
def test_large_batches_have_starts_and_rows_of_the_naive_oracle(name):
    spec = SPECS[name]
    ids, array = ids_of(spec)[-3:], array_of(spec)
    starts = np.empty((*ids.shape, spec.num_blocks), np.int64)
    out = rn.lookup(array, ids, spec, starts=starts)
    np.testing.assert_array_equal(starts, naive.block_starts(ids, spec))
    assert out.tobytes() == naive.lookup(array, ids, spec).tobytes()


@pytest.mark.parametrize("name", ["signs, odd sizes", "aligned short blocks"])
def test_the_host_has_the_bits_of_the_digests(name):
    spec = SPECS[name]
    ids, array = ids_of(spec), array_of(spec)
    starts = np.empty((*ids.shape, spec.num_blocks), np.int64)
    check(f"rows, {name}, float32", rn.lookup(array, ids, spec, starts=starts))
    check(f"starts, {name}", starts)
    grads = whole_gradients(spec)
    check(f"gradient, {name}, uniform ids", rn.lookup_backward(grads, ids, spec))


def test_a_difference_is_shown():
    case = "starts, one block a row"
    starts = CASES[case]()
    starts[7, 3, 0] += 1
    with pytest.raises(AssertionError, match=r"Mismatched elements: 1 / [0-9]+ "):
        check(case, starts)
