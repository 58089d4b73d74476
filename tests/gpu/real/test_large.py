"""Large batches on a real GPU have the bits of the oracle; run by `pytest --gpu`."""

import numpy as np
import pytest

import robe_numba as rn
from robe_numba.dlrm import DLRM, PRESETS, make_embedding
from tests.gpu.conftest import to_cpu, to_gpu
from tests.gpu.large_cases import (
    BAG_SPEC,
    PADDING_IDX,
    SPECS,
    array_of,
    bags_of,
    check,
    ids_of,
)
from tests.support import numpy_oracle

pytestmark = pytest.mark.usefixtures("gpu_memory")


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("name", SPECS)
def test_starts_and_rows(name, dtype):
    spec = SPECS[name]
    ids, array = to_gpu(ids_of(spec)), to_gpu(array_of(spec, dtype))
    starts = to_gpu(np.empty((*ids.shape, spec.num_blocks), np.int64))
    out = rn.lookup(array, ids, spec, starts=starts)
    check(f"rows, {name}, {dtype}", to_cpu(out))
    check(f"starts, {name}", to_cpu(starts))
    check(f"starts, {name}", to_cpu(rn.block_starts(ids, spec)))


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bags(mode):
    bags = bags_of(mode)
    indices, offsets = to_gpu(bags.indices), to_gpu(bags.offsets)
    weights = None if bags.weights is None else to_gpu(bags.weights)
    array = to_gpu(array_of(BAG_SPEC))
    out = rn.embedding_bag(array, indices, offsets, BAG_SPEC, mode, weights, PADDING_IDX)
    check(f"bags, {mode}", to_cpu(out))


@pytest.mark.parametrize("preset", ["kaggle", "mlperf"])
def test_a_model_has_the_losses_of_float64(preset):
    config = PRESETS[preset].config
    embedding = make_embedding(
        "robe",
        embedding_dim=config.embedding_dim,
        num_tables=config.num_tables,
        num_parameters=540_672,
        block_size=config.embedding_dim,
    )
    model = DLRM(config, embedding.to("cuda"))
    parameters = {name: to_cpu(array) for name, array in model.parameters().items()}
    oracle = numpy_oracle.DLRM(parameters, embedding._parts["array"].spec)
    generator = np.random.default_rng(3)
    for _ in range(5):
        dense = generator.random((2048, config.num_dense), np.float32)
        ids = generator.integers(0, 1000, (2048, config.num_tables))
        labels = generator.integers(0, 2, 2048).astype(np.float32)
        expected = oracle.train_step(dense, ids, labels, 0.01)
        found = model.train_step(*map(to_gpu, (dense, ids, labels)), 0.01)
        assert float(found) == pytest.approx(expected, rel=1e-4)
    scores = to_cpu(model.predict(to_gpu(dense), to_gpu(ids)))
    np.testing.assert_allclose(scores, oracle.probabilities(dense, ids), rtol=1e-3)
