"""Each layer against central differences in float64, and against plain NumPy."""

import numpy as np
import pytest

from robe_numba.dlrm import (
    bce_with_logits,
    cat_interaction,
    cross_network,
    dot_interaction,
    linear,
    mlp,
)
from robe_numba.dlrm.layers.loss import sigmoid
from robe_numba.dlrm.optimizers import DenseOptimizer


def numerical_gradient(function, array, step=1e-6):
    """Central differences of a scalar function of `array`, which is restored."""
    gradient = np.empty_like(array)
    for index in np.ndindex(array.shape):
        kept = array[index]
        array[index] = kept + step
        above = function()
        array[index] = kept - step
        below = function()
        array[index] = kept
        gradient[index] = (above - below) / (2 * step)
    return gradient


def random(seed, *shapes):
    generator = np.random.default_rng(seed)
    return [generator.normal(size=shape) for shape in shapes]


def assert_gradients(function, arrays, gradients):
    for array, gradient in zip(arrays, gradients, strict=True):
        np.testing.assert_allclose(
            gradient, numerical_gradient(function, array), rtol=1e-6, atol=1e-8
        )


@pytest.mark.parametrize("batch", [1, 5])
def test_linear_gradient(batch):
    x, weight, bias, direction = random(0, (batch, 4), (3, 4), (3,), (batch, 3))
    _, backward = linear(x, weight, bias)
    grad_x, (grad_weight, grad_bias) = backward(direction)
    assert_gradients(
        lambda: np.sum(linear(x, weight, bias)[0] * direction),
        (x, weight, bias),
        (grad_x, grad_weight, grad_bias),
    )


def test_linear_is_the_affine_map():
    x, weight, bias = np.array([[1.0, 2.0]]), np.array([[3.0, 4.0], [5.0, 6.0]]), np.array([7.0, 8])
    np.testing.assert_array_equal(linear(x, weight, bias)[0], [[18.0, 25.0]])


def test_relu_gradient():
    x, weight, bias, direction = random(1, (6, 4), (5, 4), (5,), (6, 5))
    y, backward = linear(x, weight, bias, relu=True)
    affine, _ = linear(x, weight, bias)
    np.testing.assert_array_equal(y, np.where(affine > 0, affine, 0))
    assert (y == 0).any()
    grad_x, (grad_weight, grad_bias) = backward(direction.copy())
    assert_gradients(
        lambda: np.sum(linear(x, weight, bias, relu=True)[0] * direction),
        (x, weight, bias),
        (grad_x, grad_weight, grad_bias),
    )


def test_relu_gradient_at_zero_is_zero():
    zeros, one = np.zeros((2, 1)), np.ones((1, 1))
    _, backward = linear(zeros, one, np.array([-0.0]), relu=True)
    grad_x, (_, grad_bias) = backward(np.ones((2, 1)))
    np.testing.assert_array_equal(grad_x, zeros)
    np.testing.assert_array_equal(grad_bias, [0.0])


def test_relu_passes_nan_on():
    y, _ = linear(np.array([[np.nan, 1.0]]), np.eye(2), np.zeros(2), relu=True)
    assert np.isnan(y).all()  # of each output, since NaN * 0 is NaN


@pytest.mark.parametrize("width", [1, 7, 70])
def test_relu_gradient_of_many_columns(width):
    """Sizes with full vectors and with a remainder."""
    (y_before, grad_y) = random(15, (9, width), (9, width))
    _, backward = linear(y_before, np.eye(width), np.zeros(width), relu=True)
    expected = np.where(y_before > 0, grad_y, 0)
    grad_x, (_, grad_bias) = backward(grad_y)
    np.testing.assert_allclose(grad_x, expected, rtol=1e-12)
    np.testing.assert_allclose(grad_bias, expected.sum(axis=0), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("final_relu", [False, True])
def test_mlp_gradient(final_relu):
    x, w0, b0, w1, b1, direction = random(2, (4, 3), (5, 3), (5,), (2, 5), (2,), (4, 2))
    layers = [(w0, b0), (w1, b1)]
    y, backward = mlp(x, layers, final_relu=final_relu)
    hidden = np.maximum(x @ w0.T + b0, 0) @ w1.T + b1
    np.testing.assert_allclose(y, np.maximum(hidden, 0) if final_relu else hidden)
    grad_x, pairs = backward(direction.copy())
    assert_gradients(
        lambda: np.sum(mlp(x, layers, final_relu=final_relu)[0] * direction),
        (x, w0, b0, w1, b1),
        (grad_x, *pairs[0], *pairs[1]),
    )


def test_mlp_writes_into_what_it_is_given():
    x, w0, b0, w1, b1, direction = random(3, (4, 3), (5, 3), (5,), (2, 5), (2,), (4, 2))
    layers = [(w0, b0), (w1, b1)]
    expected_y, backward = mlp(x, layers, final_relu=True)
    expected_grad, expected = backward(direction.copy())
    outs = [np.full((4, 5), np.nan), np.full((4, 2), np.nan)]
    y, backward = mlp(x, layers, final_relu=True, outs=outs)
    assert y is outs[1]
    np.testing.assert_array_equal(y, expected_y)
    out = [tuple(np.full_like(array, np.nan) for array in pair) for pair in layers]
    grads = [np.full((4, 3), np.nan), np.full((4, 5), np.nan)]
    grad_x, pairs = backward(direction.copy(), out, grads)
    assert grad_x is grads[0]
    np.testing.assert_array_equal(grad_x, expected_grad)
    for pair, written, wanted in zip(pairs, out, expected, strict=True):
        for array, its_room, values in zip(pair, written, wanted, strict=True):
            assert array is its_room
            np.testing.assert_array_equal(array, values)


def test_mlp_without_the_gradient_of_its_input():
    x, w0, b0, w1, b1, direction = random(3, (4, 3), (5, 3), (5,), (2, 5), (2,), (4, 2))
    _, backward = mlp(x, [(w0, b0), (w1, b1)], final_relu=True)
    _, expected = backward(direction.copy())
    grad_x, pairs = backward(direction.copy(), wanted=False)
    assert grad_x is None
    for pair, wanted in zip(pairs, expected, strict=True):
        for array, values in zip(pair, wanted, strict=True):
            np.testing.assert_array_equal(array, values)


def einsum_interaction(dense, embeddings):
    vectors = np.concatenate([dense[:, None], embeddings], axis=1)
    products = np.einsum("bic,bjc->bij", vectors, vectors)
    rows, columns = np.tril_indices(vectors.shape[1], -1)
    return np.concatenate([dense, products[:, rows, columns]], axis=1)


@pytest.mark.parametrize(("batch", "tables", "dim"), [(3, 4, 5), (1, 1, 1), (2, 3, 33), (0, 2, 4)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dot_interaction_is_the_lower_triangle(batch, tables, dim, dtype):
    arrays = random(4, (batch, dim), (batch, tables, dim))
    dense, embeddings = (array.astype(dtype) for array in arrays)
    out, _ = dot_interaction(dense, embeddings)
    assert out.dtype == dtype
    tolerance = 1e-5 if dtype == np.float32 else 1e-12
    expected = einsum_interaction(dense, embeddings)
    np.testing.assert_allclose(out, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("interaction", [dot_interaction, cat_interaction])
def test_interaction_gradient(interaction):
    dense, embeddings = random(5, (3, 4), (3, 5, 4))
    out, backward = interaction(dense, embeddings)
    (direction,) = random(6, out.shape)
    given = np.full_like(embeddings, np.nan)
    grad_dense, grad_embeddings = backward(direction, given)
    assert grad_embeddings is given
    again = np.full_like(out, np.nan)
    assert interaction(dense, embeddings, again)[0] is again
    np.testing.assert_array_equal(again, out)
    assert_gradients(
        lambda: np.sum(interaction(dense, embeddings)[0] * direction),
        (dense, embeddings),
        (grad_dense, grad_embeddings),
    )


def test_cat_interaction_is_the_vectors_side_by_side():
    dense, embeddings = random(7, (2, 3), (2, 2, 3))
    expected = np.concatenate([dense, embeddings[:, 0], embeddings[:, 1]], axis=1)
    np.testing.assert_array_equal(cat_interaction(dense, embeddings)[0], expected)


def test_loss_gradient():
    (logits,) = random(8, (7,))
    labels = np.array([0.0, 1, 1, 0, 1, 0, 0])
    loss, backward = bce_with_logits(logits, labels)
    p = 1 / (1 + np.exp(-logits))
    assert loss == pytest.approx(-np.mean(labels * np.log(p) + (1 - labels) * np.log(1 - p)))
    assert_gradients(lambda: bce_with_logits(logits, labels)[0], (logits,), (backward(),))


def test_loss_of_extreme_logits_is_finite():
    logits = np.array([-1e4, 1e4, -1e4, 1e4], np.float32)
    labels = np.array([0, 1, 1, 0], np.float32)
    loss, backward = bce_with_logits(logits, labels)
    assert loss == 5e3
    np.testing.assert_array_equal(backward(), np.array([0, 0, -0.25, 0.25], np.float32))
    np.testing.assert_array_equal(sigmoid(logits), np.array([0, 1, 0, 1], np.float32))


def test_losses_of_parts_add_up():
    (logits,) = random(9, (10,))
    labels = (logits > 0.3).astype(np.float64)
    whole, backward = bce_with_logits(logits, labels)
    first, backward_first = bce_with_logits(logits[:4], labels[:4], count=10)
    second, backward_second = bce_with_logits(logits[4:], labels[4:], count=10)
    assert first + second == pytest.approx(whole)
    parts = np.concatenate([backward_first(), backward_second()])
    np.testing.assert_array_equal(parts, backward())


def test_loss_of_an_empty_batch_is_zero():
    empty = np.empty(0, np.float32)
    loss, backward = bce_with_logits(empty, empty)
    assert loss == 0.0
    assert backward().shape == (0,)


def test_float32_stays_float32():
    dense, embeddings = (a.astype(np.float32) for a in random(10, (3, 4), (3, 2, 4)))
    weight, bias = (a.astype(np.float32) for a in random(11, (6, 4), (6,)))
    y, backward_mlp = mlp(dense, [(weight, bias)], final_relu=True)
    out, backward_dot = dot_interaction(dense, embeddings)
    _, backward_loss = bce_with_logits(y[:, 0].copy(), np.zeros(3, np.float32))
    arrays = [y, out, backward_loss(), *backward_dot(out), backward_mlp(y.copy())[0]]
    assert {array.dtype for array in arrays} == {np.dtype(np.float32)}


def test_misfits_are_errors_that_name_the_argument():
    x, weight, bias = random(12, (2, 3), (4, 3), (4,))
    with pytest.raises(ValueError, match="x has shape"):
        linear(x[:, :2].copy(), weight, bias)
    with pytest.raises(ValueError, match="bias has shape"):
        linear(x, weight, bias[:3])
    with pytest.raises(TypeError, match="x has dtype float32"):
        linear(x.astype(np.float32), weight, bias)
    with pytest.raises(TypeError, match="weight has dtype int64"):
        linear(x, weight.astype(np.int64), bias)
    with pytest.raises(ValueError, match="grad_y has shape"):
        linear(x, weight, bias)[1](np.zeros((2, 3)))
    with pytest.raises(ValueError, match="out has shape"):
        linear(x, weight, bias, out=np.zeros((2, 3)))
    with pytest.raises(ValueError, match="layers is empty"):
        mlp(x, [], final_relu=True)
    with pytest.raises(ValueError, match="labels has shape"):
        bce_with_logits(np.zeros(2), np.zeros(3))


@pytest.mark.parametrize("interaction", [dot_interaction, cat_interaction])
def test_interaction_misfits(interaction):
    dense, embeddings = random(13, (2, 3), (2, 4, 3))
    with pytest.raises(ValueError, match="embeddings has shape"):
        interaction(dense, embeddings[0])
    with pytest.raises(ValueError, match="dense has shape"):
        interaction(dense[:1], embeddings)
    with pytest.raises(TypeError, match="dense has dtype float32"):
        interaction(dense.astype(np.float32), embeddings)
    out, backward = interaction(dense, embeddings)
    with pytest.raises(ValueError, match="grad_out has shape"):
        backward(out[:, :-1].copy())
    with pytest.raises(ValueError, match="grad_embeddings has shape"):
        backward(out, embeddings[:1])
    with pytest.raises(ValueError, match="out has shape"):
        interaction(dense, embeddings, out[:1])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_optimizers_follow_their_formula(dtype):
    value, first, second = (a.astype(dtype) for a in random(14, (3, 2), (3, 2), (3, 2)))
    moved = {"w": value.copy()}
    DenseOptimizer("sgd", moved).step({"w": first}, lr=0.5)
    np.testing.assert_array_equal(moved["w"], value - dtype(0.5) * first)

    moved = {"w": value.copy()}
    adagrad = DenseOptimizer("adagrad", moved, eps=1e-3)
    expected, state = value.copy(), np.zeros_like(value)
    for gradient in (first, second):
        adagrad.step({"w": gradient}, lr=0.1)
        state += gradient * gradient
        expected -= dtype(0.1) * gradient / (np.sqrt(state) + dtype(1e-3))
    tolerance = 4 * np.finfo(dtype).eps
    np.testing.assert_allclose(moved["w"], expected, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(adagrad.state["w.state_sum"], state, rtol=tolerance)


def test_optimizer_misfits_move_nothing():
    parameters = {"a": np.ones(2), "b": np.ones(3)}
    optimizer = DenseOptimizer("sgd", parameters)
    with pytest.raises(ValueError, match="gradient of b has shape"):
        optimizer.step({"a": np.ones(2), "b": np.ones(2)}, lr=1.0)
    with pytest.raises(ValueError, match="lr is nan"):
        optimizer.step({"a": np.ones(2), "b": np.ones(3)}, lr=float("nan"))
    np.testing.assert_array_equal(parameters["a"], np.ones(2))
    with pytest.raises(ValueError, match="optimizer is 'adam'"):
        DenseOptimizer("adam", parameters)


def cross_layers(width, ranks, seed=0):
    return [
        tuple(random(seed + number, (rank, width), (width, rank), (width,)))
        for number, rank in enumerate(ranks)
    ]


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("ranks", [(2,), (3, 1, 5)])
def test_cross_network_gradient(batch, ranks):
    x, direction = random(9, (batch, 4), (batch, 4))
    layers = cross_layers(4, ranks)
    _, backward = cross_network(x, layers)
    grad_x, gradients = backward(direction.copy())
    assert_gradients(
        lambda: np.sum(cross_network(x, layers)[0] * direction),
        (x, *(array for layer in layers for array in layer)),
        (grad_x, *(array for layer in gradients for array in layer)),
    )


def test_cross_network_is_its_formula():
    x, v, u = np.array([[1.0, 2.0]]), np.array([[3.0, 4.0]]), np.array([[5.0], [6.0]])
    bias = np.array([7.0, 8.0])
    # V x = 11, U (V x) = (55, 66); x * (62, 74) + x.
    np.testing.assert_array_equal(cross_network(x, [(v, u, bias)])[0], [[63.0, 150.0]])
    # V y = 789, U (V y) = (3945, 4734); x * (3952, 4742) + y.
    y, _ = cross_network(x, [(v, u, bias)] * 2)
    np.testing.assert_array_equal(y, [[4015.0, 9634.0]])


def test_a_cross_network_without_layers_is_the_identity():
    x, direction = random(2, (3, 4), (3, 4))
    y, backward = cross_network(x)
    assert y is x
    grad_x, gradients = backward(direction)
    assert grad_x is direction
    assert gradients == []


def test_a_cross_network_fills_what_it_is_given():
    x, direction = random(3, (3, 4), (3, 4))
    layers = cross_layers(4, (2, 2))
    shared = tuple(np.empty((3, width)) for width in (2, 4, 4))
    y, _ = cross_network(x, layers, outs=[shared, shared])  # all that scoring needs
    assert y is shared[2]
    expected, backward = cross_network(x, layers)
    np.testing.assert_array_equal(y, expected)
    out = [tuple(map(np.empty_like, layer)) for layer in layers]
    _, gradients = backward(direction, out)
    for layer, given in zip(gradients, out, strict=True):
        assert all(made is array for made, array in zip(layer, given, strict=True))


@pytest.mark.parametrize(
    ("place", "shape", "message"),
    [(0, (2, 5), "v of layer 1"), (1, (5, 2), "u of layer 1"), (2, (3,), "bias of layer 1")],
)
def test_cross_weights_that_do_not_fit(place, shape, message):
    layers = cross_layers(4, (2, 2))
    wrong = list(layers[1])
    wrong[place] = np.empty(shape)
    with pytest.raises(ValueError, match=message):
        cross_network(np.empty((3, 4)), [layers[0], tuple(wrong)])
    with pytest.raises(ValueError, match=r"expected \(batch, n\)"):
        cross_network(np.empty(4), layers)
