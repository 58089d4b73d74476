"""A model's layers on a GPU, against plain NumPy in float64 and central differences."""

import numpy as np
import pytest

from robe_numba.dlrm import bce_with_logits, cat_interaction, dot_interaction, sigmoid
from robe_numba.dlrm.layers.cross import cross_network
from robe_numba.dlrm.layers.linear import linear
from robe_numba.dlrm.optimizers import DenseOptimizer
from robe_numba.kernels.gpu.interaction import tiles
from tests.dlrm.test_layers import numerical_gradient
from tests.gpu.conftest import to_cpu, to_gpu
from tests.support import naive
from tests.support.strategies import REAL_DTYPES


def normal(dtype, *shapes, seed=0):
    generator = np.random.default_rng(seed)
    return [generator.normal(size=shape).astype(dtype) for shape in shapes]


def assert_close(array, expected, terms):
    """Compare sums of a number of terms of about 1."""
    array = to_cpu(array)
    assert array.shape == expected.shape
    tolerance = 4 * (terms + 1) * np.finfo(array.dtype).eps
    np.testing.assert_allclose(array, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", REAL_DTYPES)
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(
    ("batch", "fan_in", "fan_out"), [(5, 4, 9), (1, 1, 1), (3, 0, 2), (0, 2, 3)]
)
def test_linear(batch, fan_in, fan_out, relu, dtype):
    shapes = (batch, fan_in), (fan_out, fan_in), (fan_out,), (batch, fan_out)
    x, weight, bias, grad_y = normal(dtype, *shapes)
    y, backward = linear(*map(to_gpu, (x, weight, bias)), relu=relu)
    affine = x.astype(np.float64) @ weight.T + bias
    assert_close(y, np.maximum(affine, 0) if relu else affine, fan_in)
    passed = np.where(affine > 0, grad_y, 0) if relu else grad_y
    grad_x, (grad_weight, grad_bias) = backward(to_gpu(grad_y))
    assert_close(grad_x, passed @ weight, fan_out)
    assert_close(grad_weight, passed.T @ x, batch)
    assert_close(grad_bias, passed.sum(axis=0), batch)


def test_linear_fills_what_it_is_given():
    x, weight, bias, y, grad_y = map(to_gpu, normal(np.float32, (2, 3), (4, 3), 4, (2, 4), (2, 4)))
    out, backward = linear(x, weight, bias, relu=True, out=y)
    pair, grad_x = (to_gpu(np.ones((4, 3), np.float32)), to_gpu(np.ones(4, np.float32))), x.copy()
    result, gradients = backward(grad_y, pair, grad_x)
    given = (y, grad_x, *pair)
    for made, array in zip((out, result, *gradients), given, strict=True):
        assert np.shares_memory(made, array) if isinstance(made, np.ndarray) else made is array
    assert backward(grad_y, wanted=False)[0] is None


def test_a_nan_goes_through_the_rectifier():
    weight, bias = to_gpu(np.ones((2, 1), np.float32)), to_gpu(np.zeros(2, np.float32))
    y, _ = linear(to_gpu(np.array([[np.nan]], np.float32)), weight, bias, relu=True)
    assert np.isnan(to_cpu(y)).all()


@pytest.mark.parametrize("dtype", REAL_DTYPES)
@pytest.mark.parametrize("room", [47 << 10, 1300])
@pytest.mark.parametrize(
    ("batch", "tables", "dim"), [(2, 3, 5), (2, 5, 37), (1, 11, 6), (1, 1, 1), (0, 2, 3)]
)
def test_dot_interaction(batch, tables, dim, room, dtype, monkeypatch):
    monkeypatch.setattr(tiles, "SHARED_BYTES", room)  # all at once, and in parts
    dense, embeddings = normal(dtype, (batch, dim), (batch, tables, dim))
    out, backward = dot_interaction(to_gpu(dense), to_gpu(embeddings))
    assert_close(out, naive.interaction(embeddings, dense)[0], dim)
    (grad_out,) = normal(dtype, to_cpu(out).shape, seed=1)
    pairs = np.zeros((batch, tables + 1, tables + 1))
    pairs[:, *np.tril_indices(tables + 1, -1)] = grad_out[:, dim:]
    every = np.concatenate([dense[:, None], embeddings], axis=1)
    expected = (pairs + pairs.transpose(0, 2, 1)) @ every
    grad_dense, grad_embeddings = backward(to_gpu(grad_out))
    assert_close(grad_dense, grad_out[:, :dim] + expected[:, 0], tables + 1)
    assert_close(grad_embeddings, expected[:, 1:], tables)


def test_too_many_tables_are_refused(monkeypatch):
    monkeypatch.setattr(tiles, "SHARED_BYTES", 208)
    dense, embeddings = map(to_gpu, normal(np.float32, (2, 2), (2, 4, 2)))
    _, backward = dot_interaction(dense, embeddings)
    with pytest.raises(ValueError, match=r"num_tables is 4; .* at most 3"):
        backward(to_gpu(np.zeros((2, 12), np.float32)))


def test_cat_interaction():
    dense, embeddings, grad_out = normal(np.float32, (2, 3), (2, 4, 3), (2, 15))
    out, backward = cat_interaction(to_gpu(dense), to_gpu(embeddings))
    np.testing.assert_array_equal(to_cpu(out), np.hstack([dense, embeddings.reshape(2, 12)]))
    grad_dense, grad_embeddings = backward(to_gpu(grad_out))
    np.testing.assert_array_equal(to_cpu(grad_dense), grad_out[:, :3])
    np.testing.assert_array_equal(to_cpu(grad_embeddings), grad_out[:, 3:].reshape(2, 4, 3))


@pytest.mark.parametrize("dtype", REAL_DTYPES)
@pytest.mark.parametrize(("batch", "ranks"), [(3, (2, 5)), (1, (1,)), (0, (2,)), (2, ())])
def test_cross_network(batch, ranks, dtype):
    x, grad_y = normal(dtype, (batch, 4), (batch, 4))
    host = [tuple(normal(dtype, (rank, 4), (4, rank), 4, seed=rank)) for rank in ranks]
    y, backward = cross_network(to_gpu(x), [tuple(map(to_gpu, layer)) for layer in host])
    grad_x, gradients = backward(to_gpu(grad_y))
    expected, expected_backward = cross_network(
        x.astype(np.float64), [tuple(a.astype(np.float64) for a in layer) for layer in host]
    )
    assert_cross(y, expected)
    expected_grad, expected_gradients = expected_backward(grad_y.astype(np.float64))
    assert_cross(grad_x, expected_grad)
    for found, wanted in zip(gradients, expected_gradients, strict=True):
        for array, other in zip(found, wanted, strict=True):
            assert_cross(array, other)


def assert_cross(array, expected):
    """Compare with the layer on the host in float64, which central differences checked."""
    array = to_cpu(array)
    assert array.shape == expected.shape
    tolerance = 200 * np.finfo(array.dtype).eps * (1 + np.abs(expected).max(initial=0))
    np.testing.assert_allclose(array, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("count", [None, 50])
def test_cross_entropy(count):
    logits = np.array([-800.0, -3.0, 0.0, 0.5, 40.0, 800.0] * 2)
    labels = np.repeat([0.0, 1.0], 6)
    loss, backward = bce_with_logits(to_gpu(logits), to_gpu(labels), count)
    share = len(logits) / (count or len(logits))
    assert float(loss) == pytest.approx(naive.cross_entropy(logits, labels) * share, rel=1e-14)
    expected = numerical_gradient(lambda: naive.cross_entropy(logits, labels) * share, logits)
    np.testing.assert_allclose(to_cpu(backward()), expected, atol=1e-8)
    probability = 1 / (1 + np.exp(-logits.clip(-700)))
    np.testing.assert_allclose(
        to_cpu(sigmoid(to_gpu(logits))), probability, rtol=1e-14, atol=1e-300
    )


def test_the_loss_of_no_rows_is_0():
    empty = to_gpu(np.empty(0, np.float32))
    loss, backward = bce_with_logits(empty, empty)
    assert float(loss) == 0
    assert to_cpu(backward()).shape == (0,)


@pytest.mark.parametrize("dtype", REAL_DTYPES)
@pytest.mark.parametrize("optimizer", ["sgd", "adagrad"])
def test_optimizer(optimizer, dtype):
    value, grad = normal(dtype, (3, 17), (3, 17))
    moved = to_gpu(value)
    dense = DenseOptimizer(optimizer, {"a": moved}, eps=1e-3)
    expected, state = value, np.zeros_like(value)
    for _ in range(2):
        dense.step({"a": to_gpu(grad)}, 0.1)
        if optimizer == "sgd":
            expected = naive.sgd(expected, grad.astype(np.float64), 0.1)
        else:
            gradient = grad.astype(np.float64)
            expected, state = naive.adagrad(expected, state, gradient, 0.1, 1e-3)
    assert_close(moved, expected, 4)
    assert [to_cpu(s).shape for s in dense.state.values()] == [(3, 17)] * (optimizer == "adagrad")


def test_arrays_of_two_devices_are_refused():
    x, weight, bias, grad_y = normal(np.float32, (2, 3), (4, 3), 4, (2, 4))
    with pytest.raises(TypeError, match="bias is a NumPy array but x is on a GPU"):
        linear(to_gpu(x), to_gpu(weight), bias)
    _, backward = linear(*map(to_gpu, (x, weight, bias)))
    with pytest.raises(TypeError, match="grad_y must be an array on a GPU"):
        backward(grad_y)
