"""Arrays on a GPU, from any library, as kernels take them."""

import math
import sys
from functools import cache
from typing import Any

import numpy as np

from robe_numba.device_arrays import GPU_NEEDS, is_tensor
from robe_numba.kernels.gpu import simulated
from robe_numba.kernels.gpu.compiler import SIMULATED


@cache
def array_library() -> Any:
    """CuPy, or its stand-in if the GPU is simulated.

    Raises
    ------
    ImportError
        Where CuPy is not installed.
    """
    if SIMULATED:
        return simulated
    try:
        import cupy
    except ImportError as error:
        raise ImportError(f"{GPU_NEEDS} ({error})") from error
    return cupy


class DeviceArray:
    """The memory of an array on a GPU.

    Parameters
    ----------
    pointer : int
        Address of its first byte; 0 if it has none.
    shape : tuple of int
    dtype : dtype
    owner : object
        The array that keeps the memory.
    contiguous : bool
        Whether it is C-contiguous; kernels take no other arrays.
    read_only : bool
        Whether its owner says that it may not be written.
    home : int, optional
        Number of its GPU; None if the owner does not say.
    """

    __slots__ = ("contiguous", "dtype", "home", "owner", "pointer", "read_only", "shape", "size")

    def __init__(
        self,
        pointer: int,
        shape: tuple[int, ...],
        dtype: np.dtype,
        owner: Any,
        contiguous: bool = True,
        read_only: bool = False,
        home: int | None = None,
    ):
        self.pointer, self.shape, self.dtype, self.owner = pointer, shape, dtype, owner
        self.contiguous, self.read_only, self.home = contiguous, read_only, home
        self.size = shape[0] if len(shape) == 1 else math.prod(shape)

    def fields(self) -> tuple[int, ...]:
        """Its fields as kernels take them; Numba's meminfo and parent are unused on a GPU."""
        itemsize, shape = self.dtype.itemsize, self.shape
        if len(shape) == 1:
            return 0, 0, self.size, itemsize, self.pointer, self.size, itemsize
        strides = (itemsize * math.prod(shape[i + 1 :]) for i in range(len(shape)))
        return 0, 0, self.size, itemsize, self.pointer, *shape, *strides

    def flat(self, dtype: Any = None) -> "DeviceArray":
        """View the memory as (size,), with another dtype of equal size if one is given."""
        dtype = self.dtype if dtype is None else np.dtype(dtype)
        return DeviceArray(self.pointer, (self.size,), dtype, self.owner)

    def simulated(self) -> Any:
        """View the array as Numba's simulator takes it."""
        return simulated.numba_view(self.owner.reshape(-1).view(self.dtype).reshape(self.shape))


# A learning rate as kernels take it: they read element 0 of either.
Rate = DeviceArray | tuple[Any]
NO_RATE: Rate = (np.float32(0),)  # for the gradient itself


@cache
def nothing(dtype: Any) -> DeviceArray:
    """An array (0,), for an argument that a kernel does not use."""
    return DeviceArray(0, (0,), np.dtype(dtype), np.empty(0, dtype))


def of(array: Any) -> DeviceArray:
    """The memory of any array on a GPU, without checks."""
    cupy = sys.modules.get("cupy")
    if cupy is not None and isinstance(array, cupy.ndarray):
        data, contiguous = array.data, array.flags.c_contiguous
        arguments = (data.ptr, array.shape, array.dtype, array, contiguous, False)
        return DeviceArray(*arguments, data.device_id)
    if is_tensor(array):
        dtype, contiguous = _numpy_dtype(array.dtype), array.is_contiguous()
        arguments = (array.data_ptr(), tuple(array.shape), dtype, array, contiguous, False)
        return DeviceArray(*arguments, array.device.index)
    if SIMULATED:
        array = getattr(array, "_ary", array)  # if it is one of the simulator's own arrays
        interface = array.__array_interface__
    else:
        interface = array.__cuda_array_interface__
    (pointer, read_only), shape = interface["data"], tuple(interface["shape"])
    dtype = np.dtype(interface["typestr"])
    strides = interface.get("strides")
    contiguous = strides is None or _is_contiguous(shape, tuple(strides), dtype.itemsize)
    return DeviceArray(pointer or 0, shape, dtype, array, contiguous, read_only)


@cache
def _numpy_dtype(dtype: Any) -> np.dtype:
    """The dtype of NumPy for one of PyTorch; void if NumPy has none."""
    try:
        return np.dtype(str(dtype).removeprefix("torch."))
    except TypeError:
        return np.dtype(np.void)


def _is_contiguous(shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> bool:
    """Whether strides, in bytes, are those of a C-contiguous array."""
    if 0 in shape:
        return True
    for length, stride in zip(reversed(shape), reversed(strides), strict=True):
        if length > 1 and stride != itemsize:
            return False
        itemsize *= length
    return True
