"""MLPs whose weights are packed for scoring."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from robe_numba.dlrm.layers.packed import PackedCross, PackedMLP
from tests.support import naive

WIDTHS = st.lists(st.sampled_from([1, 2, 15, 16, 17, 63, 64, 65, 130]), min_size=2, max_size=4)
ROWS = st.sampled_from([0, 1, 2, 5, 6, 7, 13, 96, 97, 103, 200])
EPSILON = np.finfo(np.float32).eps / 2  # half the distance between 1 and the next float


def make_layers(widths, seed):
    draw = np.random.default_rng(seed).standard_normal
    return [
        (draw((n, m)).astype(np.float32), draw(n).astype(np.float32)) for m, n in pairwise(widths)
    ]


def run(packed, x, threads=1):
    into = packed.input(len(x))
    into[: len(x), : x.shape[1]] = x
    out = np.empty((len(x), packed.fan_out), np.float32)
    packed(into, out, threads)
    return out


def inputs(rows, width, seed=0):
    return np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32)


@given(st.integers(0, 140), st.integers(1, 140), ROWS, st.booleans())
def test_a_layer_is_the_rounded_sum_of_its_products(fan_in, fan_out, rows, relu):
    ((weight, bias),) = layers = make_layers([fan_in, fan_out], seed=fan_in)
    x = inputs(rows, fan_in)
    exact = x.astype(np.float64) @ weight.T.astype(np.float64) + bias
    # Each product passes through at most fan_in + 1 roundings (Higham, Accuracy, section 3.1).
    sizes = np.abs(x).astype(np.float64) @ np.abs(weight.T).astype(np.float64) + np.abs(bias)
    bound = (fan_in + 2) * EPSILON / (1 - (fan_in + 2) * EPSILON) * sizes
    found = run(PackedMLP(layers, final_relu=relu), x)
    expected = np.maximum(exact, 0) if relu else exact
    assert (np.abs(found - expected) <= bound).all()


@given(WIDTHS, ROWS, st.booleans())
def test_a_stack_is_one_layer_after_the_other(widths, rows, final_relu):
    layers = make_layers(widths, seed=sum(widths))
    x = inputs(rows, widths[0])
    found = run(PackedMLP(layers, final_relu=final_relu), x)
    for number, layer in enumerate(layers):
        relu = final_relu or number < len(layers) - 1
        x = run(PackedMLP([layer], final_relu=relu), x)
    assert found.tobytes() == x.tobytes()


@given(WIDTHS, ROWS, st.data())
@example([13, 130, 1], 200, None)
def test_a_row_has_the_same_bits_whatever_rows_are_beside_it(widths, rows, data):
    packed = PackedMLP(make_layers(widths, seed=1), final_relu=False)
    x = inputs(rows, widths[0])
    whole = run(packed, x)
    cut = rows // 3 if data is None else data.draw(st.integers(0, rows))
    parts = [run(packed, part) for part in (x[:cut], x[cut:])]
    assert np.concatenate(parts).tobytes() == whole.tobytes()


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
def test_the_number_of_threads_changes_no_bit(threads, monkeypatch):
    packed = PackedMLP(make_layers([20, 70, 3], seed=0), final_relu=True)
    x = inputs(100, 20)
    alone = run(packed, x)
    monkeypatch.setattr("robe_numba.dlrm.layers.packed.threads_for", lambda elements: threads)
    assert run(packed, x, threads).tobytes() == alone.tobytes()


def test_nan_stays_in_its_row():
    packed = PackedMLP(make_layers([20, 70, 3], seed=0), final_relu=True)
    x = inputs(9, 20)
    clean = run(packed, x)
    x[4, 7] = np.nan
    found = run(packed, x)
    assert np.isnan(found[4]).all()
    assert np.delete(found, 4, 0).tobytes() == np.delete(clean, 4, 0).tobytes()


def test_other_dtypes_are_refused():
    weight, bias = make_layers([4, 3], seed=0)[0]
    with pytest.raises(TypeError, match="weight has dtype float64"):
        PackedMLP([(weight.astype(np.float64), bias)], final_relu=False)


def make_cross(width, rank, layers):
    draw = np.random.default_rng(7).standard_normal
    shapes = ((rank, width), (width, rank), (width,))
    return [
        tuple(draw(shape).astype(np.float32) / width for shape in shapes) for _ in range(layers)
    ]


@given(st.sampled_from([1, 15, 16, 65]), st.integers(1, 20), st.integers(0, 3), ROWS)
def test_a_packed_cross_network_is_that_of_the_oracle(width, rank, count, rows):
    layers = make_cross(width, rank, count)
    x = inputs(rows, width)
    names = {f"cross.{n}.{part}": array for n, layer in enumerate(layers)
             for part, array in zip(("v", "u", "bias"), layer, strict=True)}  # fmt: skip
    expected = naive.cross(x, names)
    found = x.copy()
    PackedCross(layers)(found, 1)
    # The weights are so small that the terms of no sum exceed the largest input.
    largest = np.abs(x).max(initial=0) + np.abs(expected).max(initial=0) + 1
    bound = (width + rank + 8) * (count + 1) * EPSILON * largest**2
    assert (np.abs(found - expected) <= bound).all()
    for row in range(min(rows, 3)):  # of its own, with the same bits, on more threads too
        alone = x[row : row + 1].copy()
        PackedCross(layers)(alone, 2)
        assert alone.tobytes() == found[row].tobytes()
