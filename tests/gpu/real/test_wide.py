"""Arrays and outputs of more than 2^32 elements on a real GPU: nothing wraps at 32 bits."""

import numpy as np
import pytest

import robe_numba as rn
from tests.gpu.conftest import to_cpu, to_gpu
from tests.gpu.large_cases import SPECS, array_of, ids_of, whole_gradients
from tests.support import numpy_oracle

SIZE = 2**32 + 1024
PERIOD = 2039  # of the values of an array: whole in float16, and 2^32 is no multiple of it
SPECS_HERE = {
    "vectors": rn.RobeSpec(SIZE, 32, 64, 4, alignment=4),
    "elements": rn.RobeSpec(SIZE, 32, 64, 4),
    "signs": rn.RobeSpec(SIZE, 24, 64, 4, sign=True),
}
BATCH = 1000


def places_of(spec, ids):
    """int64 (batch, num_tables, d), and signs."""
    places, signs = numpy_oracle.read_places(*numpy_oracle.reads_of(ids), spec)
    shape = (*ids.shape, spec.embedding_dim)
    assert (places > 2**31).any()
    assert (places < 2**31).any()
    return places.reshape(shape), np.broadcast_to(signs, (ids.size, shape[2])).reshape(shape)


def test_reads_of_an_array(gpu_memory):
    gpu_memory(16 << 30)
    import cupy

    array, step = cupy.empty(SIZE, np.float16), 1 << 28
    for begin in range(0, SIZE, step):
        array[begin : begin + step] = cupy.arange(begin, min(begin + step, SIZE)) % PERIOD
    for name, spec in SPECS_HERE.items():
        ids = ids_of(spec, batch=BATCH)
        places, signs = places_of(spec, ids)
        expected = (places % PERIOD * signs).astype(np.float32)
        out = to_cpu(rn.lookup(array, to_gpu(ids), spec))
        np.testing.assert_array_equal(out, expected, err_msg=name)
        # A bag of two rows each: what the samples 2 b and 2 b + 1 read.
        indices, offsets = ids.T.reshape(-1), np.arange(0, 4 * BATCH + 1, 2)
        pooled = to_cpu(rn.embedding_bag(array, to_gpu(indices), to_gpu(offsets), spec))
        np.testing.assert_array_equal(pooled, expected[::2] + expected[1::2], err_msg=name)


@pytest.mark.parametrize("state_block", [None, 1, 32])
@pytest.mark.parametrize("name", ["vectors", "signs"])
def test_updates_of_an_array(gpu_memory, name, state_block):
    """SGD, or Adagrad; what no read touched stays 0."""
    spec = SPECS_HERE[name]
    gpu_memory((24 if state_block != 1 else 42) << 30)
    import cupy

    array = cupy.zeros(SIZE, np.float32)
    ids, grads = ids_of(spec, batch=BATCH), whole_gradients(spec, BATCH)
    ids[:300] = ids[0]  # enough reads of a place for whole thread blocks
    places, signs = places_of(spec, ids)
    touched, which = np.unique(places, return_inverse=True)
    gradient = np.zeros(touched.size)
    np.add.at(gradient, which.ravel(), (grads * signs).ravel())
    inputs = to_gpu(grads), to_gpu(ids), spec
    if state_block is None:
        rn.sgd_update(array, *inputs, lr=0.5)
        expected = gradient / -2
    else:
        sums = cupy.zeros(-(-SIZE // state_block), np.float32)
        rn.adagrad_update(array, sums, *inputs, lr=0.5, eps=1e-3, state_block=state_block)
        blocks, of = np.unique(touched // state_block, return_inverse=True)
        squares = np.zeros(blocks.size)
        np.add.at(squares, of, gradient**2 / state_block)
        found = to_cpu(sums.take(to_gpu(blocks)))
        np.testing.assert_allclose(found, squares, rtol=1e-5)
        assert int(cupy.count_nonzero(sums)) == np.count_nonzero(squares)
        expected = -0.5 * gradient / (np.sqrt(squares)[of] + 1e-3)
    np.testing.assert_allclose(to_cpu(array.take(to_gpu(touched))), expected, rtol=1e-5)
    assert int(cupy.count_nonzero(array)) == np.count_nonzero(expected)


def test_an_output_and_its_gradient(gpu_memory):
    """As its parts, which are small enough for the tests of large batches."""
    gpu_memory(32 << 30)
    import cupy

    spec = SPECS["one block a row"]
    batch = 2**32 // (spec.num_tables * spec.embedding_dim) + 5
    ids, array = to_gpu(ids_of(spec, batch=batch)), to_gpu(array_of(spec))
    parts = [slice(begin, begin + 65_536) for begin in range(0, batch, 65_536)]
    out = rn.lookup(array, ids, spec)
    assert out.size > 2**32
    for part in parts:
        assert (out[part] == rn.lookup(array, ids[part], spec)).all()
    # Whole numbers, other ones for each row and column.
    rows = cupy.arange(batch * spec.num_tables, dtype=np.float32).reshape(batch, -1, 1) % 5 - 2
    columns = cupy.arange(spec.embedding_dim, dtype=np.float32) % 3 - 1
    cupy.add(rows, columns, out=out)
    gradient = rn.lookup_backward(out, ids, spec)
    for part in parts:
        gradient -= rn.lookup_backward(out[part], ids[part], spec)
    assert not gradient.any()
