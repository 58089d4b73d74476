"""A model run as CUDA graphs gives the same bits as its single launches."""

import numpy as np
import pytest

from robe_numba.dlrm import DLRM, capture_logits, capture_train_step
from tests.dlrm.test_model import batch_of
from tests.gpu.conftest import SIMULATED, to_cpu, to_gpu
from tests.gpu.test_model import model_on_gpu

ROWS = 6
# The first batch is computed without a graph, the second captured; the simulator captures none.
COUNT = 2 if SIMULATED else 5


def batches(count):
    """Batches of one size, on the GPU."""
    return [[to_gpu(array) for array in batch_of(rows=ROWS, seed=seed)] for seed in range(count)]


def weights(model):
    """Copies of all weights and sums on the host."""
    return {name: to_cpu(array) for name, array in (model.parameters() | model.state()).items()}


@pytest.mark.parametrize(("optimizer", "clip_norm"), [("sgd", None), ("adagrad", 0.05)])
def test_steps_have_the_bits_of_train_step(optimizer, clip_norm):
    expected, captured = (model_on_gpu(optimizer=optimizer) for _ in range(2))
    dtype = batches(1)[0][1].dtype
    step = capture_train_step(captured, ROWS, dtype, clip_norm)
    rates = [(0.1, None), (0.05, 0.2), (0.05, 0.2), (0.1, None), (0.0, 0.01)]
    for batch, (lr, embedding_lr) in zip(batches(COUNT), rates, strict=False):
        wanted = expected.train_step(*batch, lr, embedding_lr, clip_norm)
        found = step(*batch, lr, embedding_lr)
        assert to_cpu(found).tobytes() == to_cpu(wanted).tobytes()
    found = weights(captured)
    for name, array in weights(expected).items():
        assert found[name].tobytes() == array.tobytes(), name


def test_logits_are_those_of_the_live_weights():
    model = model_on_gpu()
    every = batches(COUNT - 1)
    logits = capture_logits(model, ROWS, every[0][1].dtype)
    kept = []
    for dense, indices, labels in every:
        wanted = to_cpu(model.logits(dense, indices))
        kept.append((logits(dense, indices), wanted))
        model.train_step(dense, indices, labels, 0.1)
    for found, wanted in kept:  # none was overwritten by a later call
        assert to_cpu(found).tobytes() == wanted.tobytes()


def test_batches_of_another_size_or_dtype_are_refused():
    model = model_on_gpu()
    dense, indices, labels = batches(1)[0]
    step = capture_train_step(model, ROWS + 1, indices.dtype)
    with pytest.raises(ValueError, match="dense has shape"):
        step(dense, indices, labels, 0.1)
    other = np.int32 if indices.dtype == np.int64 else np.int64
    with pytest.raises(TypeError, match="indices has dtype"):
        capture_logits(model, ROWS, other)(dense, indices)


def test_what_cannot_be_captured_is_refused():
    model = model_on_gpu()
    with pytest.raises(ValueError, match="rows is 0"):
        capture_logits(model, 0)
    with pytest.raises(ValueError, match="index_dtype is"):
        capture_logits(model, 1, np.float32)
    host = DLRM(model.config, model.embedding.to("cpu"), dtype=model.dtype)
    with pytest.raises(ValueError, match="the model is on the CPU"):
        capture_train_step(host, 1)


def test_a_rate_on_the_gpu_has_one_element():
    model = model_on_gpu()
    dense, indices, labels = batches(1)[0]
    rate = to_gpu(np.full(2, 0.1, model.dtype))
    with pytest.raises(ValueError, match="must have one element"):
        model.train_step(dense, indices, labels, rate)
