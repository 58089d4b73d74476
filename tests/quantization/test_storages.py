"""Arrays in fewer bytes: what is stored, and what is refused."""

import sys

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robe_numba import QuantizedArray, quantize
from robe_numba.quantization.storages import STORAGES, store
from tests.support.strategies import widened


def array(size=300):
    return np.random.default_rng(size).standard_normal(size).astype(np.float32)


def test_what_each_storage_is():
    given_array = array()
    assert store(given_array, "float32") is given_array
    assert store(given_array, "float16").dtype == np.float16
    assert store(given_array, "bfloat16").dtype == ml_dtypes.bfloat16
    stored, expected = store(given_array, "int8"), quantize(given_array, 128)
    assert isinstance(stored, QuantizedArray)
    assert stored.block == 128
    np.testing.assert_array_equal(stored.dequantize(), expected.dequantize())
    sizes = [store(given_array, storage).nbytes for storage in STORAGES]
    assert sizes == [1200, 600, 600, 300 + 3 * 4]


def nearest(value, bits, least_exponent):
    """A number rounded to this many significant bits, ties to even, as IEEE 754 defines it."""
    exponent = max(int(np.frexp(value)[1]) - bits, least_exponent)
    return float(np.ldexp(round(float(np.ldexp(value, -exponent))), exponent))


@given(st.lists(st.floats(-65504, 65504, width=32), min_size=1, max_size=20))
def test_halves_are_the_nearest(values):
    given_array = np.array(values, np.float32)
    found = widened(store(given_array, "float16"))
    assert found.tolist() == [nearest(value, 11, -24) for value in values]
    found = widened(store(given_array, "bfloat16"))
    assert found.tolist() == [nearest(value, 8, -133) for value in values]


@pytest.mark.parametrize(
    ("storage", "value", "words"),
    [
        ("float16", 65505, r"the array has the value 65505.0, but float16 holds .* up to 65504;"),
        ("float16", -7e4, "the array has the value -70000.0, but float16 holds"),
        ("float16", np.nan, "the array has the value nan, but float16 holds finite numbers"),
        ("bfloat16", 3.4e38, "but bfloat16 holds finite numbers up to 3.38953e"),
        ("bfloat16", -np.inf, "the array has the value -inf, but bfloat16 holds finite"),
        ("int8", np.inf, "a value that is not finite"),
    ],
)
def test_a_value_that_would_not_be_held_is_refused(storage, value, words):
    given_array = array()
    given_array[123] = value
    with pytest.raises(ValueError, match=words):
        store(given_array, storage)


def test_the_largest_numbers_of_halves_are_held():
    for storage, most in (("float16", 65504), ("bfloat16", (2 - 2**-7) * 2.0**127)):
        largest = np.array([most, -most], np.float32)
        assert widened(store(largest, storage)).tolist() == [most, -most]


@pytest.mark.parametrize("storage", STORAGES)
def test_only_float32_is_stored(storage):
    stored = [store(array(), other) for other in STORAGES[1:]]
    for other in (array().astype(np.float64), *stored):
        with pytest.raises(TypeError, match=f"only float32 can be stored as {storage}"):
            store(other, storage)


def test_unknown_storages_are_refused():
    with pytest.raises(ValueError, match=r"storage is 'int4'; choose one of float32, float16"):
        store(array(), "int4")


def test_bfloat16_names_the_package_that_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(ModuleNotFoundError, match=r"needs ml_dtypes: pip install 'robe-numba\[se"):
        store(array(), "bfloat16")
    assert store(array(), "float16").dtype == np.float16
