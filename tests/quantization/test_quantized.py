"""From floats to int8 with scales."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robe_numba import quantize
from robe_numba.quantization import quantized


@given(
    st.integers(0, 300),
    st.sampled_from([16, 64, 128, 4096]),
    st.integers(-30, 30),
    st.sampled_from(["float32", "float64"]),
)
def test_every_element_takes_the_nearest_of_255_levels(size, block, exponent, dtype):
    generator = np.random.default_rng(size)
    array = (generator.standard_normal(size) * 10.0**exponent).astype(dtype)
    stored = quantize(array, block)
    assert (stored.values.dtype, stored.values.shape) == (np.int8, (size,))
    assert (stored.scales.dtype, stored.scales.shape) == (np.float32, (-(-size // block),))
    assert stored.nbytes == size + 4 * len(stored.scales)
    for k, scale in enumerate(stored.scales.tolist()):
        part = slice(k * block, (k + 1) * block)
        largest = max(map(abs, array[part].tolist()))
        assert abs(scale * 127 - largest) <= 2**-23 * largest
        for value, element in zip(stored.values[part].tolist(), array[part].tolist(), strict=True):
            assert abs(value) <= 127
            # Half a level, and what rounding the quotient in the array's dtype may add.
            error = abs(Fraction(value) - Fraction(element) / Fraction(scale))
            assert error <= Fraction(1, 2) + Fraction(127, 2**23)
            assert value == 0 or (value > 0) == (element > 0)


def test_one_element_of_each_block_takes_an_outermost_level():
    array = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    stored = quantize(array, 16)
    assert (np.maximum.reduceat(np.abs(stored.values), np.arange(0, 1000, 16)) == 127).all()
    mirrored = quantize(-array, 16)
    np.testing.assert_array_equal(mirrored.values, -stored.values)
    np.testing.assert_array_equal(mirrored.scales, stored.scales)


def test_levels_are_stored_exactly():
    """Whole numbers with a largest of 127 times a power of two, and blocks of zeros."""
    values = np.random.default_rng(1).integers(-127, 128, 512)
    values[::16] = 127
    values[64:80] = 0
    array = values.astype(np.float32) * np.float32(2.0**-20)
    np.testing.assert_array_equal(quantize(array, 16).dequantize(), array)
    np.testing.assert_array_equal(quantize(array, 16).values, values)


@pytest.mark.parametrize("size", [0, 1, 32, 33, 64, 95, 200])
def test_a_long_array_is_rounded_in_chunks(size, monkeypatch):
    array = np.random.default_rng(size).standard_normal(size).astype(np.float32)
    whole = quantize(array, 16)
    monkeypatch.setattr(quantized, "CHUNK", 32)
    parts = quantize(array, 16)
    np.testing.assert_array_equal(parts.values, whole.values)
    np.testing.assert_array_equal(parts.scales, whole.scales)


def test_the_smallest_and_the_largest_numbers():
    info = np.finfo(np.float32)
    array = np.zeros(48, np.float32)
    array[:3] = 2.0**127, -(2.0**127), 2.0**125
    array[16:18] = info.smallest_subnormal, info.tiny
    stored = quantize(array, 16)
    np.testing.assert_array_equal(stored.values[:3], [127, -127, 32])
    assert not stored.values[16:].any()
    assert stored.scales[1:].tolist() == [0, 0]
    np.testing.assert_allclose(stored.dequantize()[:2], array[:2], rtol=1e-6)


@pytest.mark.parametrize(
    ("array", "block", "error", "words"),
    [
        ([1.0, 2.0], 16, TypeError, "array must be a NumPy array, got builtins.list"),
        (np.ma.ones(9), 16, TypeError, "array must be a NumPy array, got numpy.ma"),
        (np.ones(9, ">f4"), 16, TypeError, "array has dtype >f4"),
        (np.ones(9, np.float16), 16, TypeError, "array has dtype float16"),
        (np.ones((3, 3), np.float32), 16, ValueError, r"array has shape \(3, 3\)"),
        (np.array([1, np.nan], np.float32), 16, ValueError, "a value that is not finite"),
        (np.array([1, -np.inf], np.float32), 16, ValueError, "a value that is not finite"),
        (np.array([1e39]), 16, ValueError, "or beyond 1.7e\\+38"),
        (np.array([-3.4e38], np.float32), 16, ValueError, "or beyond 1.7e\\+38"),
        (np.ones(9, np.float32), 8, ValueError, r"block is 8; it must be in \[16, 4096\]"),
        (np.ones(9, np.float32), 8192, ValueError, "block is 8192"),
        (np.ones(9, np.float32), 24, ValueError, "block is 24; it must be a power of two"),
        (np.ones(9, np.float32), 16.0, TypeError, "block must be an integer"),
    ],
)
def test_what_cannot_be_quantized_is_refused(array, block, error, words):
    with pytest.raises(error, match=words):
        quantize(array, block)
