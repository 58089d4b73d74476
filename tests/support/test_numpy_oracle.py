"""The oracle for large batches against the one that goes element by element."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robe_numba import RobeSpec
from tests.dlrm.test_layers import numerical_gradient
from tests.support import naive, numpy_oracle
from tests.support.strategies import array_for, bags_for, indices_for, robe_specs

specs = robe_specs(hashes=("multiply-shift",))
HUGE = RobeSpec(2**33 + 7, 5, 12, 3, sign=True)  # too long for starts of 32 bits


@given(st.data(), st.one_of(specs, st.just(HUGE)))
def test_starts_and_places(data, spec):
    indices = data.draw(indices_for(spec, max_batch=3))
    starts = numpy_oracle.block_starts(indices, spec)
    np.testing.assert_array_equal(starts, naive.block_starts(indices, spec))
    ids, tables = numpy_oracle.reads_of(indices)
    places, signs = numpy_oracle.read_places(ids, tables, spec)
    for read, (t, x) in enumerate(zip(tables, ids, strict=True)):
        found = zip(places[read], np.broadcast_to(signs, places.shape)[read], strict=True)
        assert list(found) == naive.places(spec, t, x)


@given(st.data(), specs, st.sampled_from(["float16", "float32", "float64"]))
def test_rows_and_gradients(data, spec, dtype):
    indices = data.draw(indices_for(spec, max_batch=3))
    array = array_for(spec, dtype, seed=1)
    expected = naive.lookup(array, indices, spec)
    assert numpy_oracle.lookup(array, indices, spec).tobytes() == expected.tobytes()
    grad_out = np.random.default_rng(2).integers(-9, 10, expected.shape).astype(np.float32)
    gradient, _ = naive.lookup_gradient(grad_out, indices, spec)
    for starts in (None, naive.block_starts(indices, spec)):
        found = numpy_oracle.lookup_gradient(grad_out, indices, spec, starts)
        np.testing.assert_array_equal(found, gradient)


@given(st.data(), specs, st.sampled_from(["float32", "float64"]))
def test_bags(data, spec, dtype):
    bags = data.draw(bags_for(spec, dtype, mixed=False))
    bags = bags._replace(offsets=bags.offsets.astype(np.int64))
    array = array_for(spec, dtype, seed=1)
    arguments = (array, *bags[:2], spec, *bags[2:])
    found = numpy_oracle.embedding_bag(*arguments)
    np.testing.assert_array_equal(found, naive.embedding_bag(*arguments))


@pytest.mark.parametrize("state_block", [1, 2, 8, 128])
def test_adagrad(state_block):
    generator = np.random.default_rng(0)
    array, gradient = generator.normal(size=(2, 99))
    gradient[generator.random(99) < 0.5] = 0
    sums = generator.random(-(-99 // state_block))
    step = (array, sums, gradient, 0.1, 0.0, state_block)
    for found, expected in zip(
        numpy_oracle.adagrad(*step), naive.block_adagrad(*step), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-14)


def test_a_step_of_the_model():
    """Its loss, and gradients that are those of central differences."""
    spec = RobeSpec(50, 3, 4, 3, sign=True)
    generator = np.random.default_rng(0)
    widths = {"bottom.0": (5, 3), "bottom.1": (4, 5), "top.0": (6, 10), "top.1": (1, 6)}
    shapes = {f"{name}.weight": shape for name, shape in widths.items()}
    shapes |= {f"{name}.bias": shape[:1] for name, shape in widths.items()}
    shapes["embedding.array"] = (spec.array_size,)
    before = {name: generator.normal(size=shape) for name, shape in shapes.items()}
    dense, labels = generator.normal(size=(7, 3)), generator.integers(0, 2, 7)
    indices = generator.integers(0, 9, (7, 3))

    def loss():
        embeddings = naive.lookup(before["embedding.array"], indices, spec)
        return naive.cross_entropy(naive.dlrm_logits(before, embeddings, dense, "dot"), labels)

    model = numpy_oracle.DLRM(before, spec)
    probabilities = model.probabilities(dense, indices)
    share = np.where(labels == 1, probabilities, 1 - probabilities)
    assert -np.log(share).mean() == pytest.approx(loss(), rel=1e-12)
    assert model.train_step(dense, indices, labels, 0.1) == pytest.approx(loss(), rel=1e-12)
    assert list(model.parameters) == list(before)
    for name, array in before.items():
        moved = array - 0.1 * numerical_gradient(loss, array)
        np.testing.assert_allclose(model.parameters[name], moved, atol=1e-8, err_msg=name)
