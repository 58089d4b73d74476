"""Matrix products on a GPU with a fake cuBLAS, on a machine without one."""

import ctypes
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.needs import GPU, need

need(*GPU)

from robe_numba.kernels.gpu.arrays import DeviceArray
from robe_numba.ops.gpu import products

CONTEXT = SimpleNamespace(device=0, stream=0x123, begin_thread=lambda: None)


class CuBLAS:
    """A fake of the library, which multiplies column-major matrices in the host's memory."""

    def __init__(self):
        self.stream = self.mode = None
        self.cublasSgemm_v2 = lambda *arguments: self.multiply(np.float32, *arguments)
        self.cublasDgemm_v2 = lambda *arguments: self.multiply(np.float64, *arguments)

    def cublasCreate_v2(self, handle):  # noqa: N802 - cuBLAS's name
        return 0

    def cublasSetStream_v2(self, handle, stream):  # noqa: N802
        self.stream = stream
        return 0

    def cublasSetMathMode(self, handle, mode):  # noqa: N802
        self.mode = mode
        return 0

    def multiply(self, dtype, handle, op_a, op_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc):
        def matrix(pointer, rows, columns, leading):
            assert leading >= rows
            kind = ctypes.c_float if dtype == np.float32 else ctypes.c_double
            flat = np.ctypeslib.as_array((kind * (leading * columns)).from_address(pointer))
            return flat.reshape(columns, leading)[:, :rows].T

        left = matrix(a, k, m, lda).T if op_a else matrix(a, m, k, lda)
        right = matrix(b, n, k, ldb).T if op_b else matrix(b, k, n, ldb)
        matrix(c, m, n, ldc)[...] = left @ right
        return 0


def described(array):
    """The host's memory, as if it were a GPU's."""
    return DeviceArray(array.ctypes.data, array.shape, array.dtype, array)


sizes = st.integers(1, 5)


@given(sizes, sizes, sizes, st.booleans(), st.booleans(), st.sampled_from([np.float32, np.float64]))
def test_products_are_those_of_the_matrices(rows, columns, depth, left_t, right_t, dtype):
    generator = np.random.default_rng(rows + 10 * columns + 100 * depth)
    left, right = (
        generator.integers(-9, 10, shape).astype(dtype)  # whose products are exact
        for shape in ((rows, depth), (depth, columns))
    )
    given_left = np.ascontiguousarray(left.T) if left_t else left
    given_right = np.ascontiguousarray(right.T) if right_t else right
    out = np.full((rows, columns), np.nan, dtype)
    library = CuBLAS()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "_cublas", lambda: library)
        arrays = (described(array) for array in (given_left, given_right, out))
        products.multiply(CONTEXT, *arrays, transposed=(left_t, right_t))
    np.testing.assert_array_equal(out, left @ right)
    assert library.stream == 0x123


@pytest.mark.parametrize(("tf32", "mode"), [(False, 0), (True, 3)])
def test_float32_is_full_unless_told_otherwise(tf32, mode, monkeypatch):
    library, one = CuBLAS(), described(np.ones((1, 1), np.float32))
    monkeypatch.setattr(products, "_cublas", lambda: library)
    monkeypatch.setattr(products, "tf32", tf32)
    products.multiply(CONTEXT, one, one, described(np.empty((1, 1), np.float32)))
    assert library.mode == mode


def test_an_error_of_cublas_is_raised(monkeypatch):
    library, one = CuBLAS(), described(np.ones((1, 1), np.float32))
    library.cublasSgemm_v2 = lambda *arguments: 13
    monkeypatch.setattr(products, "_cublas", lambda: library)
    with pytest.raises(RuntimeError, match="cublasStatus_t 13"):
        products.multiply(CONTEXT, one, one, described(np.empty((1, 1), np.float32)))


class Streams(CuBLAS):
    """Records the stream of each handle, and calls a signal handler after one is set."""

    def __init__(self, handler):
        super().__init__()
        self.handler, self.created, self.streams, self.used = handler, 0, {}, []

    def cublasCreate_v2(self, handle):  # noqa: N802
        self.created += 1
        handle._obj.value = self.created
        return 0

    def cublasSetStream_v2(self, handle, stream):  # noqa: N802
        self.streams[handle.value] = stream
        return 0

    def cublasSetMathMode(self, handle, mode):  # noqa: N802
        handler, self.handler = self.handler, lambda: None
        handler()
        return 0

    def multiply(self, dtype, handle, *arguments):
        self.used.append(self.streams[handle.value])
        return super().multiply(dtype, handle, *arguments)


def test_a_product_within_a_product_leaves_its_stream_alone(monkeypatch):
    one, out = (described(np.ones((1, 1), np.float32)) for _ in range(2))
    own, other = (SimpleNamespace(**vars(CONTEXT) | {"device": 7, "stream": s}) for s in (1, 2))
    library = Streams(lambda: products.multiply(other, one, one, out))
    monkeypatch.setattr(products, "_cublas", lambda: library)
    for _ in range(3):
        products.multiply(own, one, one, out)
    assert library.used == [2, 1, 1, 1]
    assert library.created == 2  # they are given back


def test_no_rows_ask_for_nothing(monkeypatch):
    def asked():
        raise AssertionError

    monkeypatch.setattr(products, "_cublas", asked)
    empty, weight = (described(np.empty(shape, np.float32)) for shape in ((0, 3), (2, 3)))
    out = described(np.empty((0, 2), np.float32))
    products.multiply(CONTEXT, empty, weight, out, transposed=(False, True))
