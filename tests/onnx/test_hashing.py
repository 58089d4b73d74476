"""Starts and signs of the exported hash, beside the kernels and the big-integer oracle."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from robe_numba import RobeSpec, block_starts
from robe_numba.onnx.graph import Graph
from robe_numba.onnx.hashing import block_starts as exported_starts
from robe_numba.onnx.hashing import row_keys, signs
from tests.onnx.sessions import any_ids, run_graph
from tests.support import naive
from tests.support.strategies import robe_specs


def starts_of(spec, ids, unit=1):
    graph = Graph()
    keys = row_keys(graph, graph.cast("ids", np.uint64), spec)
    starts = exported_starts(graph, keys, spec, unit)
    (found,) = run_graph(graph, [starts], ids=ids)
    return found.reshape(len(ids), spec.num_tables, spec.num_blocks).astype(np.int64) * unit


@given(robe_specs(), st.integers(0, 99), st.integers(0, 5))
def test_starts_have_the_bits_of_the_kernels(spec, seed, rows):
    ids = any_ids(seed, rows, spec.num_tables)
    found = starts_of(spec, ids)
    np.testing.assert_array_equal(found, naive.block_starts(ids, spec))
    if spec.num_embeddings is None:
        np.testing.assert_array_equal(found, block_starts(ids, spec))


@given(
    st.integers(2**31, 2**62),
    st.sampled_from([1, 4]),
    st.sampled_from([4, 16]),
    st.integers(0, 2**64 - 1),
)
@example(2**32, 1, 16, 0)  # the most starts of one word, and the fewest of two
@example(2**32 + 1, 1, 16, 0)
@example(2**62, 1, 4, 2**64 - 1)
def test_starts_in_arrays_that_need_a_second_word(size, alignment, block_size, seed):
    spec = RobeSpec(size, block_size, 16, 3, seed=seed, alignment=alignment)
    ids = any_ids(seed % 97, 4, 3)
    found = starts_of(spec, ids, unit=alignment)
    np.testing.assert_array_equal(found, naive.block_starts(ids, spec))
    np.testing.assert_array_equal(found, block_starts(ids, spec))


@pytest.mark.parametrize("dim", [1, 7, 8, 16, 63, 64, 65, 130])
@pytest.mark.parametrize("hash_name", ["multiply-shift", "paper"])
def test_signs(dim, hash_name):
    spec = RobeSpec(500, 5, dim, 3, hash=hash_name, seed=7, sign=True)
    ids, graph = any_ids(dim, 6, 3), Graph()
    output = signs(graph, row_keys(graph, graph.cast("ids", np.uint64), spec), spec)
    (found,) = run_graph(graph, [output], ids=ids)
    wanted = [
        [[naive.sign(spec, t, x, i) for i in range(dim)] for t, x in enumerate(row)] for row in ids
    ]
    np.testing.assert_array_equal(found, np.array(wanted, np.float32))
    assert {-1, 1} == set(found.ravel())
