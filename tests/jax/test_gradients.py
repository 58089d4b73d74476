"""Gradients in JAX: of the array and of weights, and a small model that learns by them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.needs import need

need("jax")

import jax
import jax.numpy as jnp
from jax.test_util import check_grads

import robe_numba
from robe_numba import RobeSpec
from robe_numba.jax import embedding_bag, lookup
from tests.jax.x64 import x64
from tests.support import naive
from tests.support.strategies import array_for, bags_for, indices_for, specs

FEW = settings(max_examples=6)  # each is compiled
SPEC = RobeSpec(60, 4, 12, 2, seed=2, sign=True)
IDS = np.array([7, 8, 9, 100, 1000, 3, 3], np.int32)
OFFSETS = np.array([0, 2, 2, 3, 3, 6, 7])  # three samples of two tables


@FEW
@given(st.data())
def test_the_gradient_of_the_array_equals_the_kernels(data):
    spec = data.draw(specs)
    indices = data.draw(indices_for(spec))
    array = array_for(spec, np.float32, seed=1)
    out, pull_back = jax.vjp(lambda array: lookup(array, indices, spec), array)
    grad_out = np.random.default_rng(2).standard_normal(out.shape, dtype=np.float32)
    (gradient,) = pull_back(grad_out)
    expected, absolute = naive.lookup_gradient(grad_out, indices, spec)
    reads = max(grad_out.size, 1)
    assert (np.abs(gradient - expected) <= reads * 2.0**-24 * absolute).all()
    ours = robe_numba.lookup_backward(grad_out, indices, spec)
    assert (np.abs(gradient - ours) <= 2 * reads * 2.0**-24 * absolute).all()


@FEW
@given(st.data())
def test_gradients_of_bags_equal_the_oracle(data):
    spec = data.draw(specs)
    indices, offsets, mode, weights, padding_idx = data.draw(
        bags_for(spec, np.float32, mixed=False)
    )
    array = array_for(spec, np.float32, seed=3)

    def pooled(array, weights):
        return embedding_bag(array, indices, offsets, spec, mode, weights, padding_idx)

    out, pull_back = jax.vjp(pooled, array, weights)
    grad_out = np.random.default_rng(4).standard_normal(out.shape, dtype=np.float32)
    gradient, grad_weights = pull_back(grad_out)
    expected, absolute = naive.embedding_bag_gradient(
        grad_out, indices, offsets, spec, mode, weights, padding_idx, array
    )
    bound = (grad_out.size + 10) * 4 * 2.0**-24
    assert (np.abs(gradient - expected) <= bound * absolute).all()
    if weights is None:
        return
    grads = np.zeros((2, len(indices)))
    for sample, table, kept in naive.bag_members(indices, offsets, spec, padding_idx):
        for i in kept:
            products = naive.row(array, spec, table, indices[i]) * np.float64(1)
            products *= grad_out[sample, table]
            grads[:, i] = products.sum(), np.abs(products).sum()
    assert (np.abs(grad_weights - grads[0]) <= bound * grads[1]).all()


@pytest.mark.parametrize("mode", ["sum", "max"])
def test_gradients_are_differences(mode):
    """Of forward and of reverse mode."""

    def pooled(array, weights=None):
        return embedding_bag(array, IDS, OFFSETS, SPEC, mode, weights, 8)

    with x64():
        array = jnp.asarray(array_for(SPEC, np.float64, seed=5))
        weights = [jnp.linspace(-1, 2, 7)] if mode == "sum" else []
        check_grads(pooled, (array, *weights), order=1)


def test_gradients_of_lookup_are_differences():
    ids = IDS[:6].reshape(3, 2)
    with x64():
        array = jnp.asarray(array_for(SPEC, np.float64, seed=5))
        check_grads(lambda array: lookup(array, ids, SPEC), (array,), order=1)


def test_what_is_left_out_has_no_gradient_whatever_it_is():
    """Neither NaN in the array nor in weights reaches the gradients of others."""
    array = np.full(60, np.nan, np.float32)
    weights = np.full(7, np.nan, np.float32)
    ids = np.full(7, 8)

    def total(array, weights):
        return embedding_bag(array, ids, OFFSETS, SPEC, "sum", weights, 8).sum()

    for gradient in jax.grad(total, argnums=(0, 1))(array, weights):
        np.testing.assert_array_equal(gradient, 0)


def test_a_model_learns_as_one_on_the_kernels_does():
    """Logistic regression on embeddings, by steps of both."""
    spec, generator = RobeSpec(400, 8, 16, 3, sign=True), np.random.default_rng(6)
    ids = generator.integers(0, 2**31, (64, 3)).astype(np.int32)
    labels = generator.integers(0, 2, 64).astype(np.float32)
    ours = array_for(spec, np.float32, seed=7) * np.float32(0.1)

    def loss_of(array, ids):
        logits = lookup(array, ids, spec).sum(axis=(1, 2))
        return (jnp.logaddexp(0, logits) - labels * logits).mean()

    @jax.jit
    def step(array, ids):
        loss, gradient = jax.value_and_grad(loss_of)(array, ids)
        return loss, array - 5.0 * gradient

    array, losses = jnp.asarray(ours), []
    for _ in range(20):
        loss, array = step(array, ids)
        losses.append(float(loss))
        logits = robe_numba.lookup(ours, ids, spec).sum(axis=(1, 2))
        errors = (1 / (1 + np.exp(-logits)) - labels) / 64
        grad_out = np.broadcast_to(errors[:, None, None], (64, 3, 16)).astype(np.float32)
        robe_numba.sgd_update(ours, np.ascontiguousarray(grad_out), ids, spec, lr=5.0)
    assert losses[-1] < 0.5 * losses[0]
    np.testing.assert_allclose(array, ours, rtol=1e-3, atol=1e-5)
