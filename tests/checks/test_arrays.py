"""Bad arrays: a clear error that names the argument, and nothing written."""

import numpy as np
import pytest

import robe_numba as rn
from tests.support.inputs import (
    BAG_GRAD,
    BAG_INDICES,
    GRAD,
    INDICES,
    OFFSETS,
    SPEC,
    advised,
    array,
    masked,
    strided,
    unaligned,
)
from tests.support.strategies import HALF_DTYPES, dtype_of


class Device:
    """Stands for an array of another device."""

    def __init__(self):
        self.__cuda_array_interface__ = {"shape": (100,), "typestr": "<f4"}


BAD_ARRAYS = [
    (masked(array()), TypeError, "array must be a NumPy array, got numpy.ma"),
    ([0.0] * 100, TypeError, "array must be a NumPy array, got list"),
    (Device(), TypeError, r" is a NumPy array but array is on a GPU"),
    (array().astype(np.longdouble), TypeError, "array has dtype"),
    (array().astype(">f4"), TypeError, "array has dtype >f4"),
    (array()[:99], ValueError, r"array has shape \(99,\); expected \(100,\)"),
    (array().reshape(10, 10), ValueError, "array has shape"),
    (strided(array()), ValueError, "array is not C-contiguous"),
    (unaligned(array()), ValueError, "array is not aligned"),
]
BAD_DENSE = [
    (np.ones((3, 8)), TypeError, "dense has dtype float64"),
    (np.ones((3, 8), np.float16), TypeError, "dense has dtype float16"),
    (np.ones((2, 8), np.float32), ValueError, r"dense has shape \(2, 8\); expected \(3, 8\)"),
    (np.ones((3, 16), np.float32)[:, ::2], ValueError, "dense is not C-contiguous"),
    (None, TypeError, "dense must be a NumPy array, got NoneType"),
]


@pytest.mark.parametrize(("bad", "error", "words"), BAD_DENSE)
def test_the_interaction_checks_the_dense_part(bad, error, words):
    with pytest.raises(error, match=words):
        rn.lookup_dot_interaction(array(), INDICES, bad, SPEC)


@pytest.mark.parametrize(("bad", "error", "words"), BAD_ARRAYS)
def test_every_function_checks_the_array(bad, error, words):
    calls = [
        lambda: rn.lookup(bad, INDICES, SPEC),
        lambda: rn.lookup_dot_interaction(bad, INDICES, np.ones((3, 8), np.float32), SPEC),
        lambda: rn.embedding_bag(bad, BAG_INDICES, OFFSETS, SPEC),
        lambda: rn.sgd_update(bad, GRAD, INDICES, SPEC),
        lambda: rn.adagrad_update(bad, array(), GRAD, INDICES, SPEC),
        lambda: rn.embedding_bag_sgd_update(bad, BAG_GRAD, BAG_INDICES, OFFSETS, SPEC),
        lambda: rn.embedding_bag_backward(BAG_GRAD, BAG_INDICES, OFFSETS, SPEC, "max", array=bad),
    ]
    for call in calls:
        with pytest.raises(error, match=words):
            call()


def quantized(**changes):
    return rn.quantize(array(), 32)._replace(**changes)


BAD_QUANTIZED = [
    ({"values": array()}, TypeError, "array.values has dtype float32; it must be int8"),
    ({"values": np.zeros(99, np.int8)}, ValueError, r"values has shape \(99,\); expected \(100,\)"),
    ({"values": strided(np.zeros(100, np.int8))}, ValueError, "values is not C-contiguous"),
    ({"values": [0] * 100}, TypeError, "array.values must be a NumPy array, got list"),
    ({"values": Device()}, TypeError, "array.values must be a NumPy array"),
    ({"scales": np.ones(4)}, TypeError, "array.scales has dtype float64; it must be float32"),
    ({"scales": np.ones(3, np.float32)}, ValueError, r"scales has shape \(3,\); expected \(4,\)"),
    ({"scales": unaligned(np.ones(4, np.float32))}, ValueError, "array.scales is not aligned"),
    ({"scales": masked(np.ones(4, np.float32))}, TypeError, "array.scales must be a NumPy array"),
    ({"block": 16}, ValueError, r"scales has shape \(4,\); expected \(7,\)"),
    ({"block": 48}, ValueError, "array.block is 48; it must be a power of two"),
    ({"block": 8}, ValueError, r"array.block is 8; it must be in \[16, 4096\]"),
    ({"block": 32.0}, TypeError, "array.block must be an integer"),
]


@pytest.mark.parametrize(("changes", "error", "words"), BAD_QUANTIZED)
def test_every_reading_function_checks_a_quantized_array(changes, error, words):
    bad, dense = quantized(**changes), np.ones((3, 8), np.float32)
    for call in (
        lambda: rn.lookup(bad, INDICES, SPEC),
        lambda: rn.lookup_dot_interaction(bad, INDICES, dense, SPEC),
        lambda: rn.embedding_bag(bad, BAG_INDICES, OFFSETS, SPEC),
    ):
        with pytest.raises(error, match=words):
            call()


def test_quantized_arrays_are_for_reading_alone():
    stored, ones = quantized(), np.ones(100, np.float32)
    calls = [
        lambda: rn.sgd_update(stored, GRAD, INDICES, SPEC),
        lambda: rn.adagrad_update(stored, ones, GRAD, INDICES, SPEC),
        lambda: rn.adagrad_update(ones, stored, GRAD, INDICES, SPEC),
        lambda: rn.apply_gradient(stored, None, ones, 0.1),
        lambda: rn.embedding_bag_sgd_update(stored, BAG_GRAD, BAG_INDICES, OFFSETS, SPEC),
        lambda: rn.embedding_bag_adagrad_update(stored, ones, BAG_GRAD, BAG_INDICES, OFFSETS, SPEC),
        lambda: rn.embedding_bag_backward(
            BAG_GRAD, BAG_INDICES, OFFSETS, SPEC, "max", array=stored
        ),
    ]
    for call in calls:
        with pytest.raises(
            TypeError, match=r"must be a NumPy array, got .*QuantizedArray; use its deq"
        ):
            call()


def test_a_quantized_array_may_be_mapped_and_its_block_any_integer(tmp_path):
    stored = quantized(block=np.uint8(32))
    for name in ("values", "scales"):
        getattr(stored, name).tofile(tmp_path / name)
    mapped = rn.QuantizedArray(
        np.memmap(tmp_path / "values", np.int8, "r"),
        np.memmap(tmp_path / "scales", np.float32, "r"),
        32,
    )
    expected = rn.lookup(quantized().dequantize(), INDICES, SPEC)
    np.testing.assert_array_equal(rn.lookup(stored, INDICES, SPEC), expected)
    np.testing.assert_array_equal(rn.lookup(mapped, INDICES, SPEC), expected)


def test_what_is_filled_is_apart_from_values_and_scales():
    scales = np.ones(64, np.float32)
    stored = rn.QuantizedArray(np.ones(100, np.int8), scales[:4], 32)
    with pytest.raises(ValueError, match=r"out and array.scales share memory"):
        rn.lookup(stored, INDICES, SPEC, out=scales[:48].reshape(3, 2, 8))
    raw = np.zeros(256, np.uint8)
    stored = stored._replace(values=raw[:100].view(np.int8))
    with pytest.raises(ValueError, match=r"starts and array.values share memory"):
        rn.lookup(stored, INDICES, SPEC, starts=raw[96:192].view(np.int64).reshape(3, 2, 2))


@pytest.mark.parametrize("dtype", HALF_DTYPES)
def test_halves_are_for_reading_alone(dtype):
    half = array().astype(dtype_of(dtype))
    ones = np.ones(100, np.float32)
    calls = [
        lambda: rn.sgd_update(half, GRAD, INDICES, SPEC),
        lambda: rn.adagrad_update(half, ones, GRAD, INDICES, SPEC),
        lambda: rn.adagrad_update(ones, half, GRAD, INDICES, SPEC),
        lambda: rn.lookup_backward(GRAD.astype(half.dtype), INDICES, SPEC),
        lambda: rn.embedding_bag_sgd_update(half, BAG_GRAD, BAG_INDICES, OFFSETS, SPEC),
        lambda: rn.embedding_bag_backward(BAG_GRAD, BAG_INDICES, OFFSETS, SPEC, "max", array=half),
        lambda: rn.lookup(half, INDICES, SPEC, out=np.empty((3, 2, 8), half.dtype)),
        lambda: rn.lookup_dot_interaction(half, INDICES, np.ones((3, 8), half.dtype), SPEC),
    ]
    for call in calls:
        with pytest.raises(TypeError, match=f"has dtype {dtype}"):
            call()


def test_other_byte_orders_are_refused():
    half = array().astype(dtype_of("bfloat16"))
    swapped = half.view(half.dtype.newbyteorder(">"))
    with pytest.raises(TypeError, match="array has dtype"):
        rn.lookup(swapped, INDICES, SPEC)


def test_integers_are_no_halves():
    for dtype in (np.int16, np.uint16):
        with pytest.raises(TypeError, match=r"must be float32 or float64 or float16 or bfloat16"):
            rn.lookup(np.zeros(100, dtype), INDICES, SPEC)


def test_a_memory_mapped_array_is_a_numpy_array(tmp_path):
    array().tofile(tmp_path / "array")
    mapped = np.memmap(tmp_path / "array", np.float32, "r")
    np.testing.assert_array_equal(rn.lookup(mapped, INDICES, SPEC),
                                  rn.lookup(array(), INDICES, SPEC))  # fmt: skip

    def copy(name, values):
        values.tofile(tmp_path / name)
        return np.memmap(tmp_path / name, values.dtype, "r+", shape=values.shape)

    starts = np.zeros((3, 2, 2), np.int64)
    arguments = (array(), np.zeros(100, np.float32), GRAD, INDICES)
    plain = [values.copy() for values in arguments]
    out = rn.lookup(plain[0], INDICES, SPEC, starts=starts)
    rn.adagrad_update(*plain, SPEC, starts=starts)
    files = [copy(str(i), values) for i, values in enumerate(arguments)]
    out_file, starts_file = copy("out", np.zeros_like(out)), copy("starts", np.zeros_like(starts))
    rn.lookup(files[0], files[3], SPEC, out=out_file, starts=starts_file)
    rn.adagrad_update(*files, SPEC, starts=starts_file)
    for in_file, expected in zip((*files, out_file, starts_file), (*plain, out, starts),
                                 strict=True):  # fmt: skip
        np.testing.assert_array_equal(in_file, expected)


@pytest.mark.parametrize("dtype", [">f4", ">f8", np.int32])
def test_values_stay_the_same_as_advised(dtype):
    wrong = (np.arange(100) / 7).astype(dtype)
    right = advised("array", wrong, lambda array: rn.lookup(array, INDICES, SPEC))
    np.testing.assert_array_equal(right, wrong)
    rn.lookup(right, INDICES, SPEC)
