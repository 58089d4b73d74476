"""Rows of embeddings in ONNX Runtime, beside the oracle: every spec, every storage."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robe_numba import RobeSpec, TableSpec
from robe_numba.onnx.embedding import STARTS, robe_rows, table_rows
from robe_numba.onnx.graph import Graph
from robe_numba.onnx.known_ids import known_rows
from robe_numba.onnx.stored_array import index_type, unit_of
from robe_numba.quantization.quantized import quantize
from robe_numba.quantization.storages import STORAGES, store
from tests.onnx.sessions import any_ids, run_graph
from tests.support import naive
from tests.support.strategies import array_for, dtype_of, robe_specs, table_specs, widened


def as_stored(array, dtype):
    """The float32 elements that a model reads."""
    if dtype == "int8":
        return quantize(array).dequantize()
    return widened(array.astype(dtype_of(dtype)))


@given(robe_specs(max_size=200), st.sampled_from(STORAGES), st.integers(0, 99), st.integers(0, 4))
def test_rows_of_a_shared_array(spec, dtype, seed, rows):
    array, ids, graph = (
        array_for(spec, "float32", seed),
        any_ids(seed, rows, spec.num_tables),
        Graph(),
    )
    output = robe_rows(graph, graph.cast("ids", np.uint64), array, spec, dtype)
    starts, found = run_graph(graph, [STARTS, output], ids=ids)
    np.testing.assert_array_equal(starts * unit_of(spec, dtype), naive.block_starts(ids, spec))
    np.testing.assert_array_equal(found, naive.lookup(as_stored(array, dtype), ids, spec))


@pytest.mark.parametrize("dtype", STORAGES)
@pytest.mark.parametrize(
    ("size", "block_size", "dim", "alignment"),
    [
        (640, 16, 16, 16),
        (1000, 32, 64, 16),
        (1001, 32, 40, 8),
        (129, 128, 128, 128),
        (128, 16, 8, 8),
    ],
)
def test_whole_stretches_at_the_circular_end(size, block_size, dim, alignment, dtype):

    spec = RobeSpec(size, block_size, dim, 2, alignment=alignment, sign=True)
    array, ids, graph = array_for(spec, "float32", size), any_ids(size, 200, 2), Graph()
    output = robe_rows(graph, graph.cast("ids", np.uint64), array, spec, dtype)
    (found,) = run_graph(graph, [output], ids=ids)
    np.testing.assert_array_equal(found, naive.lookup(as_stored(array, dtype), ids, spec))


@given(table_specs(), st.sampled_from(STORAGES), st.integers(0, 99), st.integers(0, 4))
def test_rows_of_plain_tables(spec, dtype, seed, rows):
    generator, graph = np.random.default_rng(seed), Graph()
    numbers = generator.integers(0, spec.num_embeddings, (rows, spec.num_tables))
    array = array_for(spec, "float32", seed)
    output = table_rows(graph, "rows", array, spec, dtype, "array")
    (found,) = run_graph(graph, [output], rows=numbers)
    np.testing.assert_array_equal(found, naive.lookup(as_stored(array, dtype), numbers, spec))


@given(
    st.lists(st.integers(0, 200), min_size=1, max_size=6),
    st.sampled_from([np.dtype(np.int32), np.dtype(np.int64)]),
    st.integers(0, 99),
)
def test_known_ids(sizes, index, seed):
    """Of any size, none at all among them; the same ids in several tables."""
    generator, graph = np.random.default_rng(seed), Graph()
    most = [5, 300, 2**64 - 1][seed % 3]
    columns = [np.unique(generator.integers(0, most, n, np.uint64, endpoint=True)) for n in sizes]
    offsets = np.cumsum([0, *map(len, columns)])
    known = np.concatenate(columns)
    ids = any_ids(seed, 50, len(sizes)).view(np.uint64)
    for t, column in enumerate(columns):  # half of the ids are known
        ids[::2, t] = generator.choice(column, 25) if len(column) else 0
    output = known_rows(graph, graph.cast("ids", np.uint64), known, offsets, index, "known")
    (found,) = run_graph(graph, [output], ids=ids.view(np.int64))
    wanted = [
        [([*columns[t]].index(x) + 1 if x in columns[t] else 0) for t, x in enumerate(row)]
        for row in ids
    ]
    np.testing.assert_array_equal(found, np.array(wanted).reshape(found.shape))


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("value", [65504, 65510, 7e4, 2.0**127, 3.395e38])
def test_models_hold_what_storages_hold(storage, value):
    """Of the largest numbers, some would be rounded to one that a half does hold."""
    spec = RobeSpec(16, 16, 16, 1)
    array = np.zeros(16, np.float32)
    array[7] = -value
    try:
        store(array, storage)
    except ValueError as error:
        with pytest.raises(ValueError, match=re.escape(str(error))):
            robe_rows(Graph(), "ids", array, spec, storage)
    else:
        robe_rows(Graph(), "ids", array, spec, storage)


def test_positions_beyond_32_bits_are_64_bits():

    assert index_type(TableSpec((2**27,), 15), "float32") == np.int32
    assert index_type(TableSpec((2**31,), 16), "float32") == np.int64
