"""Updates by large batches on a real GPU: exact for whole numbers, and the same from run to run."""

import numpy as np
import pytest

import robe_numba as rn
from tests.gpu.conftest import to_cpu, to_gpu
from tests.gpu.large_cases import BAG_SPEC, SPECS, array_of, check, ids_of, whole_gradients, words
from tests.support import numpy_oracle

pytestmark = pytest.mark.usefixtures("gpu_memory")


@pytest.mark.parametrize("ids", ["uniform", "frequent"])
@pytest.mark.parametrize("name", SPECS)
def test_updates(name, ids):
    """Of frequent ids the segments take whole thread blocks."""
    spec = SPECS[name]
    grads, indices = to_gpu(whole_gradients(spec)), to_gpu(ids_of(spec, ids == "frequent"))
    gradient = to_cpu(rn.lookup_backward(grads, indices, spec))
    check(f"gradient, {name}, {ids} ids", gradient)
    array = array_of(spec)
    moved, sums = to_gpu(array), to_gpu(np.zeros_like(array))
    rn.adagrad_update(moved, sums, grads, indices, spec, lr=0.1, eps=1e-3)
    np.testing.assert_array_equal(to_cpu(sums), gradient**2)
    expected, _ = numpy_oracle.adagrad(array, np.zeros(array.size), gradient, 0.1, 1e-3, 1)
    np.testing.assert_allclose(to_cpu(moved), expected, rtol=1e-6, atol=1e-7)
    # Of gradients that do round: the same bits each time, whatever the order of the threads.
    grads /= 7
    runs = []
    for _ in range(3):
        moved = to_gpu(array)
        rn.sgd_update(moved, grads, indices, spec, lr=0.1)
        runs.append(to_cpu(moved).tobytes())
    assert runs[1] == runs[0]
    assert runs[2] == runs[0]
    expected = array - 0.1 / 7 * gradient.astype(np.float64)
    np.testing.assert_allclose(np.frombuffer(runs[0], np.float32), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("state_block", [32, 4096])
@pytest.mark.parametrize("name", ["one block a row", "short blocks"])
def test_sums_of_blocks_in_two_parts(name, state_block):
    """The gradients of 2^24 elements are in memory at a time, so of this array in two parts. Many
    reads are of blocks that lie in both, and of one that wraps around.
    """
    spec, part = SPECS[name], 2**24
    ids, grads = ids_of(spec, frequent=True, batch=4096), whole_gradients(spec, batch=4096)
    starts = numpy_oracle.block_starts(ids, spec)
    starts[:1000, :2, 0] = part - 4, spec.array_size - 3
    gradient = numpy_oracle.lookup_gradient(grads, ids, spec, starts)
    assert gradient[part - 4 : part].any()
    assert gradient[part : part + 4].any()
    array, sums = array_of(spec), np.ones(-(-spec.array_size // state_block), np.float32)
    expected, expected_sums = numpy_oracle.adagrad(array, sums, gradient, 0.1, 1e-3, state_block)
    moved, found = to_gpu(array), to_gpu(sums)
    step = {"lr": 0.1, "eps": 1e-3, "starts": to_gpu(starts), "state_block": state_block}
    rn.adagrad_update(moved, found, to_gpu(grads), to_gpu(ids), spec, **step)
    np.testing.assert_allclose(to_cpu(found), expected_sums, rtol=1e-5)
    np.testing.assert_allclose(to_cpu(moved), expected, rtol=1e-5, atol=1e-5)
    still = gradient == 0
    assert to_cpu(moved)[still].tobytes() == array[still].tobytes()


@pytest.mark.parametrize("state_block", [1, 32, 4096])
def test_a_nan_reaches_its_block_alone(state_block):
    """One among many reads, and one of a few."""
    spec = SPECS["short blocks"]
    ids, grads = ids_of(spec, frequent=True, batch=1024), whole_gradients(spec, batch=1024)
    crowded = np.flatnonzero(ids[:, 0] == 0)
    assert crowded.size > 30
    lonely = np.argmax(ids[:, 1])
    grads[crowded[20], 0, 3] = grads[lonely, 1, 70] = np.nan
    gradient = numpy_oracle.lookup_gradient(grads, ids, spec)
    assert np.isnan(gradient).sum() == 2
    array, sums = array_of(spec), np.zeros(-(-spec.array_size // state_block), np.float32)
    expected, expected_sums = numpy_oracle.adagrad(array, sums, gradient, 0.1, 1e-3, state_block)
    moved, found = to_gpu(array), to_gpu(sums)
    step = {"lr": 0.1, "eps": 1e-3, "state_block": state_block}
    rn.adagrad_update(moved, found, to_gpu(grads), to_gpu(ids), spec, **step)
    np.testing.assert_allclose(to_cpu(found), expected_sums, rtol=1e-5)
    np.testing.assert_allclose(to_cpu(moved), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_gradients_of_bags(mode):
    """Of frequent ids; the sums of a mean are rounded."""
    spec, batch = BAG_SPEC, 512
    sizes = (words(6, batch * spec.num_tables) % np.uint64(41)).astype(np.int64)
    bags = np.repeat(np.arange(sizes.size), sizes)
    samples, tables = bags % batch, bags // batch
    ids = ids_of(spec, frequent=True, batch=2 * batch * spec.num_tables).reshape(-1)[: bags.size]
    grads = whole_gradients(spec, batch)
    places, _ = numpy_oracle.read_places(ids, tables, spec)
    terms = grads[samples, tables].astype(np.float64)
    if mode == "mean":
        terms /= sizes[bags][:, None]
    gradient = np.zeros(spec.array_size)
    np.add.at(gradient, places, terms)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    inputs = to_gpu(grads), to_gpu(ids), to_gpu(offsets)
    found = to_cpu(rn.embedding_bag_backward(*inputs, spec, mode))
    if mode == "sum":
        np.testing.assert_array_equal(found, gradient)
    else:
        np.testing.assert_allclose(found, gradient, rtol=1e-4, atol=1e-3)
