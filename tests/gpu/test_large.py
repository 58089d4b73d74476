"""Large batches and arrays on a real GPU, beside the host's kernels; run by `pytest --gpu`."""

import numpy as np
import pytest

import robe_numba as rn
from robe_numba.dlrm import DLRM, PRESETS, make_embedding
from tests.gpu.conftest import SIMULATED, to_cpu, to_gpu

pytestmark = pytest.mark.skipif(SIMULATED, reason="too large for the simulator")

BATCH = 65_536
SPECS = {
    "one block a row": rn.RobeSpec(25_000_000, 128, 128, 26, alignment=32),
    "short blocks": rn.RobeSpec(25_000_000, 8, 128, 26),
    "signs, odd sizes": rn.RobeSpec(540_001, 7, 33, 26, sign=True),
    "aligned short blocks": rn.RobeSpec(540_672, 4, 16, 26, alignment=4),
    "single elements": rn.RobeSpec(540_000, 1, 16, 26),
}


def ids_of(spec, frequent, batch=BATCH):
    """Uniform ids, or ones of which a few are most: their segments take whole thread blocks."""
    generator = np.random.default_rng(0)
    shape = batch, spec.num_tables
    if frequent:
        return np.minimum(generator.zipf(1.2, shape), 2**40)
    return generator.integers(0, 2**40, shape)


def whole_numbers(shape):
    """Gradients whose sums are exact in any order."""
    return np.random.default_rng(1).integers(-4, 5, shape, np.int8).astype(np.float32)


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_starts_and_rows_have_the_bits_of_the_host(name, dtype):
    spec = SPECS[name]
    ids, array = ids_of(spec, frequent=False), rn.init_array(spec).astype(dtype)
    places = np.empty((*ids.shape, spec.num_blocks), np.int64)
    expected = rn.lookup(array, ids, spec, starts=places)
    starts = to_gpu(np.empty_like(places))
    out = to_cpu(rn.lookup(to_gpu(array), to_gpu(ids), spec, starts=starts))
    assert out.tobytes() == expected.tobytes()
    np.testing.assert_array_equal(to_cpu(starts), places)


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("frequent", [False, True])
def test_updates_are_exact_and_the_same_from_run_to_run(name, frequent):
    spec = SPECS[name]
    ids, array = ids_of(spec, frequent), rn.init_array(spec)
    grad_out = whole_numbers((*ids.shape, spec.embedding_dim))
    gradient = rn.lookup_backward(grad_out, ids, spec)
    inputs = to_gpu(grad_out), to_gpu(ids)
    np.testing.assert_array_equal(to_cpu(rn.lookup_backward(*inputs, spec)), gradient)
    moved, sums = array.copy(), np.zeros_like(array)
    rn.adagrad_update(moved, sums, grad_out, ids, spec)
    there, sums_there = to_gpu(array), to_gpu(np.zeros_like(array))
    rn.adagrad_update(there, sums_there, *inputs, spec)
    np.testing.assert_array_equal(to_cpu(sums_there), sums)
    np.testing.assert_allclose(to_cpu(there), moved, rtol=1e-6, atol=1e-6)
    # Of gradients that do round: the same bits each time, whatever the order of the threads.
    inputs = to_gpu(grad_out / 7), inputs[1]
    runs = []
    for _ in range(3):
        there = to_gpu(array)
        rn.sgd_update(there, *inputs, spec)
        runs.append(to_cpu(there).tobytes())
    assert len(set(runs)) == 1


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bags_have_the_bits_of_the_host(mode):
    spec = rn.RobeSpec(25_000_000, 64, 64, 26)
    generator = np.random.default_rng(2)
    sizes = generator.integers(0, 41, 8192 * spec.num_tables)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    ids, array = generator.integers(0, 2**31, offsets[-1]), rn.init_array(spec)
    weights = generator.random(ids.size).astype(np.float32) if mode == "sum" else None
    weights_there = None if weights is None else to_gpu(weights)
    expected = rn.embedding_bag(array, ids, offsets, spec, mode, weights, 5)
    bags = to_gpu(ids), to_gpu(offsets)
    out = rn.embedding_bag(to_gpu(array), *bags, spec, mode, weights_there, 5)
    assert to_cpu(out).tobytes() == expected.tobytes()


def test_an_array_of_more_than_2_to_the_32_elements():
    """Neither positions nor products of them may wrap at 32 bits."""
    spec = rn.RobeSpec(2**32 + 1000, 32, 64, 4)
    import cupy

    array = cupy.zeros(spec.array_size, np.float16)
    ids = np.arange(4000).reshape(1000, 4)
    starts = rn.block_starts(ids, spec)
    assert starts.max() > 2**31
    probe = starts[:, :, 1] + 3
    array.put(cupy.asarray(probe.ravel()), cupy.arange(probe.size, dtype=np.float16))
    out = to_cpu(rn.lookup(array, to_gpu(ids), spec))
    found = to_cpu(array.take(cupy.asarray(probe))).astype(np.float32)
    assert np.count_nonzero(found) > 0.9 * found.size
    np.testing.assert_array_equal(out[:, :, 32 + 3], found)


@pytest.mark.parametrize("preset", ["kaggle", "mlperf"])
def test_a_model_has_the_losses_of_the_host(preset):
    config = PRESETS[preset].config
    embedding = make_embedding(
        "robe",
        embedding_dim=config.embedding_dim,
        num_tables=config.num_tables,
        num_parameters=540_672,
        block_size=config.embedding_dim,
    )
    host, there = DLRM(config, embedding), DLRM(config, embedding.to("cuda"))
    generator = np.random.default_rng(3)
    for _ in range(5):
        dense = generator.random((2048, config.num_dense), np.float32)
        ids = generator.integers(0, 1000, (2048, config.num_tables))
        labels = generator.integers(0, 2, 2048).astype(np.float32)
        loss = host.train_step(dense, ids, labels, 0.01)
        found = there.train_step(*map(to_gpu, (dense, ids, labels)), 0.01)
        assert float(found) == pytest.approx(loss, rel=1e-4)
    scores = to_cpu(there.predict(to_gpu(dense), to_gpu(ids)))
    np.testing.assert_allclose(scores, host.predict(dense, ids), rtol=1e-3)


def test_work_goes_onto_the_current_stream():
    """What a stream does before a call is seen by it, though nobody waits for either."""
    import cupy

    spec = SPECS["one block a row"]
    ids, array = ids_of(spec, frequent=False), rn.init_array(spec)
    expected = rn.lookup(array, ids, spec) * 3
    indices, source = to_gpu(ids), to_gpu(array)
    cupy.cuda.Device().synchronize()
    with cupy.cuda.Stream(non_blocking=True) as stream:
        values = cupy.zeros_like(source)
        for _ in range(50):
            values *= 1  # keeps the stream busy
        values += source
        out = rn.lookup(values, indices, spec)
        out *= 3
        found = cupy.asnumpy(out, stream=stream)
        stream.synchronize()
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("own", [True, False])
def test_tensors_on_a_stream_of_torch(own):
    """Its default stream, and one of its others."""
    torch = pytest.importorskip("torch")
    spec = SPECS["aligned short blocks"]
    ids, array = ids_of(spec, frequent=False), rn.init_array(spec)
    expected = rn.lookup(array, ids, spec)
    with torch.cuda.stream(torch.cuda.Stream() if own else torch.cuda.default_stream()):
        tensor, indices = torch.from_numpy(array).cuda(), torch.from_numpy(ids).cuda()
        out = torch.empty(expected.shape, device="cuda")
        assert rn.lookup(tensor, indices, spec, out=out) is out
        with pytest.raises(ValueError, match="array requires a gradient"):
            rn.lookup(tensor.clone().requires_grad_(), indices, spec)
        half = tensor.bfloat16()
        wide = rn.lookup(half, indices, spec)
        torch.cuda.current_stream().synchronize()
        np.testing.assert_array_equal(out.cpu().numpy(), expected)
        rounded = rn.lookup(half.float().cpu().numpy(), ids, spec)
        np.testing.assert_array_equal(to_cpu(wide), rounded)
