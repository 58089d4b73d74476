"""Streams of CuPy and PyTorch on a real GPU: calls work on the caller's and wait for nothing."""

from contextlib import nullcontext

import numpy as np
import pytest

import robe_numba as rn
from robe_numba.dlrm import DLRM, DLRMConfig, make_embedding
from tests.gpu.conftest import to_cpu, to_gpu
from tests.gpu.large_cases import SPECS, array_of, ids_of, whole_gradients
from tests.support import numpy_oracle

SPEC, BATCH = SPECS["one block a row"], 4096


def keep_busy(values):
    """Give the current stream a few milliseconds of work that changes nothing."""
    for _ in range(50):
        values *= 1


def test_lookups_on_a_stream_of_cupy():
    import cupy

    ids, array = ids_of(SPEC, batch=BATCH), array_of(SPEC)
    expected = numpy_oracle.lookup(array, ids, SPEC) * 3
    indices, source = to_gpu(ids), to_gpu(array)
    cupy.cuda.Device().synchronize()
    with cupy.cuda.Stream(non_blocking=True) as stream:
        values = cupy.zeros_like(source)
        keep_busy(values)
        values += source
        out = rn.lookup(values, indices, SPEC)
        out *= 3
        found = cupy.asnumpy(out, stream=stream)
        stream.synchronize()
    np.testing.assert_array_equal(found, expected)


def test_updates_on_a_stream_of_cupy():
    """A sort is part of them, and memory that is given back while the stream works."""
    import cupy

    ids, array, grads = ids_of(SPEC, batch=BATCH), array_of(SPEC), whole_gradients(SPEC, BATCH)
    gradient = numpy_oracle.lookup_gradient(grads, ids, SPEC)
    indices, source, given = to_gpu(ids), to_gpu(array), to_gpu(grads)
    cupy.cuda.Device().synchronize()
    with cupy.cuda.Stream(non_blocking=True) as stream:
        values, zeros = cupy.zeros_like(source), cupy.zeros_like(given)
        keep_busy(values)
        values += source
        zeros += given
        for _ in range(4):
            rn.sgd_update(values, zeros, indices, SPEC, lr=0.25)
        found = cupy.asnumpy(values, stream=stream)
        stream.synchronize()
    # Quarters of whole numbers, each step rounded.
    np.testing.assert_allclose(found, array - gradient, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("own", [True, False])
def test_tensors_on_a_stream_of_torch(own):
    """One of its others, and its default stream."""
    torch = pytest.importorskip("torch")
    ids, array, grads = ids_of(SPEC, batch=BATCH), array_of(SPEC), whole_gradients(SPEC, BATCH)
    expected = numpy_oracle.lookup(array, ids, SPEC)
    gradient = numpy_oracle.lookup_gradient(grads, ids, SPEC)
    source, indices, given = (torch.from_numpy(each).cuda() for each in (array, ids, grads))
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream() if own else torch.cuda.default_stream()):
        values = torch.zeros_like(source)
        keep_busy(values)
        values += source
        out = torch.empty(expected.shape, device="cuda")
        assert rn.lookup(values, indices, SPEC, out=out) is out
        made = rn.lookup(values, indices, SPEC)
        with pytest.raises(ValueError, match="array requires a gradient"):
            rn.lookup(values.clone().requires_grad_(), indices, SPEC)
        half = values.bfloat16()
        wide = rn.lookup(half, indices, SPEC)
        rn.sgd_update(values, given, indices, SPEC, lr=0.5)
        torch.cuda.current_stream().synchronize()
        np.testing.assert_array_equal(out.cpu().numpy(), expected)
        np.testing.assert_array_equal(to_cpu(made), expected)
        rounded = numpy_oracle.lookup(half.float().cpu().numpy(), ids, SPEC)
        np.testing.assert_array_equal(to_cpu(wide), rounded)
        moved = (array - gradient / 2).astype(np.float32)
        np.testing.assert_array_equal(values.cpu().numpy(), moved)


@pytest.fixture
def model_and_batches():
    """A small model on the GPU, its oracle, and batches."""
    config = DLRMConfig(num_dense=13, num_tables=26, embedding_dim=16, bottom=(64,), top=(64,))
    embedding = make_embedding(
        "robe", embedding_dim=16, num_tables=26, num_parameters=20_000, block_size=16
    )
    model = DLRM(config, embedding.to("cuda"))
    parameters = {name: to_cpu(array) for name, array in model.parameters().items()}
    oracle = numpy_oracle.DLRM(parameters, embedding._parts["array"].spec)
    generator, batches = np.random.default_rng(0), []
    for _ in range(4):
        dense = generator.random((BATCH, 13), np.float32)
        labels = generator.integers(0, 2, BATCH).astype(np.float32)
        batches.append((dense, generator.integers(0, 1000, (BATCH, 26)), labels))
    return model, oracle, batches


@pytest.mark.parametrize("stream", ["default", "of CuPy", "of PyTorch"])
def test_a_model_on_a_stream(model_and_batches, stream):
    """Its inputs are PyTorch's tensors where the stream is, else CuPy's arrays."""
    import cupy

    model, oracle, batches = model_and_batches
    torch = pytest.importorskip("torch") if stream == "of PyTorch" else None
    cupy.cuda.Device().synchronize()
    if torch:
        side = torch.cuda.Stream()
        here, there = torch.cuda.stream(side), cupy.cuda.ExternalStream(side.cuda_stream)
    else:
        here = nullcontext()
        there = cupy.cuda.Stream(non_blocking=True) if stream == "of CuPy" else nullcontext()
    losses = []
    with here, there:
        for batch in batches:
            inputs = [torch.from_numpy(a).cuda() if torch else to_gpu(a) for a in batch]
            keep_busy(inputs[0])
            losses.append(model.train_step(*inputs, 0.1))
        scores = model.predict(*inputs[:2])
        found = [float(loss) for loss in losses], to_cpu(scores)
    expected = [oracle.train_step(*batch, 0.1) for batch in batches]
    np.testing.assert_allclose(found[0], expected, rtol=1e-4)
    np.testing.assert_allclose(found[1], oracle.probabilities(*batches[-1][:2]), rtol=1e-3)


def test_a_model_takes_tensors_on_the_default_stream(model_and_batches):
    torch = pytest.importorskip("torch")
    model, oracle, batches = model_and_batches
    for batch in batches:
        tensors = [torch.from_numpy(array).cuda() for array in batch]
        loss = float(model.train_step(*tensors, 0.1))
        assert loss == pytest.approx(oracle.train_step(*batch, 0.1), rel=1e-4)
