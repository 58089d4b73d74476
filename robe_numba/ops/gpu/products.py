"""Matrix products by cuBLAS, called directly.

CuPy refuses its own products while a CUDA graph is captured, and takes 25 us for each.
"""

import ctypes
import os
import threading
from functools import cache
from typing import Any

from robe_numba.kernels.gpu.arrays import DeviceArray
from robe_numba.kernels.gpu.compiler import SIMULATED
from robe_numba.kernels.gpu.context import DeviceContext

# Whether products use TensorFloat-32 (10 bits of fraction instead of 23), several times as fast as
# full float32. The variable is CuPy's, so that one setting serves both.
tf32 = os.environ.get("CUPY_TF32", "0") == "1"
NORMAL, TRANSPOSED = 0, 1  # cublasOperation_t
FULL, TF32 = 0, 3  # cublasMath_t


@cache
def _cublas() -> Any:
    """Load the library.

    Raises
    ------
    OSError
        Where it is not installed.
    """
    from cuda.pathfinder import load_nvidia_dynamic_lib

    try:
        library = ctypes.CDLL(load_nvidia_dynamic_lib("cublas").abs_path)
    except RuntimeError as error:
        raise OSError(
            f"matrix products on a GPU need cuBLAS: pip install nvidia-cublas, or "
            f"nvidia-cublas-cu12 for a driver of CUDA 12 ({error})"
        ) from error
    pointer, number = ctypes.c_void_p, ctypes.c_int
    library.cublasCreate_v2.argtypes = [pointer]
    library.cublasSetStream_v2.argtypes = [pointer, pointer]
    library.cublasSetMathMode.argtypes = [pointer, number]
    for name in ("cublasSgemm_v2", "cublasDgemm_v2"):
        matrices = [pointer, pointer, number, pointer, number, pointer, pointer, number]
        getattr(library, name).argtypes = [pointer, *[number] * 5, *matrices]
    return library


class _Handles(threading.local):
    """The cuBLAS handles of each thread that no product uses now, by device.

    Only one product uses a handle at a time, since it sets the handle's stream first. A signal
    handler may take another handle in between.
    """

    def __init__(self) -> None:
        self._unused: dict[int, list[ctypes.c_void_p]] = {}

    def take(self, context: DeviceContext) -> ctypes.c_void_p:
        """Take a handle of a device, to be given back."""
        unused = self._unused.setdefault(context.device, [])
        if unused:
            return unused.pop()
        context.begin_thread()
        handle = ctypes.c_void_p()
        _check(_cublas().cublasCreate_v2(ctypes.byref(handle)))
        return handle

    def give_back(self, context: DeviceContext, handle: ctypes.c_void_p) -> None:
        """Give a handle back for the next product."""
        self._unused[context.device].append(handle)


_handles = _Handles()
_ONE = {kind: kind(1) for kind in (ctypes.c_float, ctypes.c_double)}
_ZERO = {kind: kind(0) for kind in (ctypes.c_float, ctypes.c_double)}


def multiply(
    context: DeviceContext,
    left: Any,
    right: Any,
    out: Any,
    transposed: tuple[bool, bool] = (False, False),
) -> None:
    """Compute out = left @ right, where either factor may be transposed first.

    Parameters
    ----------
    context : DeviceContext
    left, right, out : DeviceArray, (rows, columns) float32, or all float64
    transposed : tuple of bool
        Whether left, and whether right.

    Raises
    ------
    RuntimeError
        Where cuBLAS reports an error.
    """
    if SIMULATED:
        _simulate(left, right, out, transposed)
        return
    if out.size == 0:
        return
    depth = left.shape[0 if transposed[0] else 1]
    if depth == 0:
        context.xp.asarray(out.owner)[...] = 0
        return
    handle = _handles.take(context)
    try:
        _multiply(context, handle, left, right, out, depth, transposed)
    finally:
        _handles.give_back(context, handle)


def _multiply(
    context: DeviceContext,
    handle: ctypes.c_void_p,
    left: Any,
    right: Any,
    out: Any,
    depth: int,
    transposed: tuple[bool, bool],
) -> None:
    """As `multiply`, given a handle and `depth`, the number of products in each sum."""
    library, (rows, columns) = _cublas(), out.shape
    double = out.dtype.itemsize == 8
    kind = ctypes.c_double if double else ctypes.c_float
    _check(library.cublasSetStream_v2(handle, context.stream))
    _check(library.cublasSetMathMode(handle, TF32 if tf32 else FULL))
    # cuBLAS has matrices in column-major order, so it computes out.T = right.T @ left.T.
    _check(
        (library.cublasDgemm_v2 if double else library.cublasSgemm_v2)(
            handle,
            *(TRANSPOSED if flag else NORMAL for flag in reversed(transposed)),
            *(columns, rows, depth, ctypes.byref(_ONE[kind])),
            *(right.pointer, right.shape[1], left.pointer, left.shape[1]),
            *(ctypes.byref(_ZERO[kind]), out.pointer, columns),
        )
    )


def _check(status: int) -> None:
    if status:
        raise RuntimeError(f"cuBLAS fails with cublasStatus_t {status}")


def _simulate(
    left: DeviceArray, right: DeviceArray, out: DeviceArray, transposed: tuple[bool, bool]
) -> None:
    factors = (
        array.owner.T if flag else array.owner
        for array, flag in zip((left, right), transposed, strict=True)
    )
    left_factor, right_factor = factors
    out.owner[...] = left_factor @ right_factor
