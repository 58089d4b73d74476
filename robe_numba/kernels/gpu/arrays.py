"""Arrays on a GPU, of whatever library, as kernels take them.

Nothing here looks at values, which would wait for the device: kernels are safe for any.
"""

import math
import sys
from functools import cache
from typing import Any

import numpy as np

from robe_numba.checks.arrays import (
    ARRAY_DTYPES,
    BFLOAT16_BITS,
    STORED_DTYPES,
    is_bfloat16,
    names_of,
)
from robe_numba.checks.scalars import check_scalar, check_spec
from robe_numba.device_arrays import GPU_NEEDS, is_on_device, is_tensor
from robe_numba.kernels.gpu import simulated
from robe_numba.kernels.gpu.compiler import SIMULATED
from robe_numba.spec import Spec
from robe_numba.state_blocks import check_state_block, check_state_shape

INT64 = (np.dtype(np.int64),)


@cache
def array_library() -> Any:
    """CuPy, or what stands for it where the GPU is simulated.

    Raises
    ------
    ImportError : it is not installed.
    """
    if SIMULATED:
        return simulated
    try:
        import cupy
    except ImportError as error:
        raise ImportError(f"{GPU_NEEDS} ({error})") from error
    return cupy


def current_device() -> int:
    """The number of the GPU that CuPy works on."""
    return 0 if SIMULATED else array_library().cuda.runtime.getDevice()


class DeviceArray:
    """The memory of an array on a GPU.

    Parameters
    ----------
    pointer : address of its first byte; 0 if it has none.
    shape, dtype : as NumPy's.
    owner : what keeps the memory.
    contiguous : whether it is so in C's order; kernels take no others.
    read_only : whether its owner says so.
    home : number of its GPU; None if the owner does not say.
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
        """What a kernel gets; what Numba calls meminfo and parent is not used on a GPU."""
        itemsize, shape = self.dtype.itemsize, self.shape
        if len(shape) == 1:
            return 0, 0, self.size, itemsize, self.pointer, self.size, itemsize
        strides = (itemsize * math.prod(shape[i + 1 :]) for i in range(len(shape)))
        return 0, 0, self.size, itemsize, self.pointer, *shape, *strides

    def flat(self, dtype: Any = None) -> "DeviceArray":
        """The same memory as (size,), as another dtype of equal size if given."""
        dtype = self.dtype if dtype is None else np.dtype(dtype)
        return DeviceArray(self.pointer, (self.size,), dtype, self.owner)

    def simulated(self) -> Any:
        """The array as Numba's simulator takes it."""
        return simulated.seen(self.owner.reshape(-1).view(self.dtype).reshape(self.shape))


# A learning rate as kernels take it: of both, element 0 is read.
Rate = DeviceArray | tuple[Any]
NO_RATE: Rate = (np.float32(0),)  # of the gradient alone


@cache
def nothing(dtype: Any) -> DeviceArray:
    """An array (0,), for what a kernel is not given."""
    return DeviceArray(0, (0,), np.dtype(dtype), np.empty(0, dtype))


def of(array: Any) -> DeviceArray:
    """The memory of any array on a GPU, unchecked."""
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
        array = getattr(array, "_ary", array)  # of the simulator's own arrays
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
    """NumPy's name of a dtype of PyTorch's; that of nothing where it has none."""
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


def view(
    name: str,
    array: Any,
    shape: tuple[int, ...] | None,
    dtypes: tuple[np.dtype, ...],
    written: bool = False,
) -> DeviceArray:
    """A device array as kernels take it: C-contiguous, of one of the dtypes and of the shape."""
    if not is_on_device(array):
        kind = type(array)
        raise TypeError(
            f"{name} must be an array on a GPU as the others are, got {kind.__module__}."
            f"{kind.__name__}; use cupy.asarray({name})"
        )
    if is_tensor(array) and array.requires_grad:
        raise ValueError(f"{name} requires a gradient of PyTorch; use {name}.detach()")
    seen = of(array)
    if seen.dtype not in dtypes:
        dtype = getattr(array, "dtype", seen.dtype)
        raise TypeError(f"{name} has dtype {dtype}; it must be {names_of(dtypes)}")
    if shape is not None and seen.shape != shape:
        raise ValueError(f"{name} has shape {seen.shape}; expected {shape}")
    if not seen.contiguous:
        raise ValueError(f"{name} is not C-contiguous; use cupy.ascontiguousarray({name})")
    if seen.size:
        _check_place(name, seen)
    if written and seen.read_only:
        raise ValueError(f"{name} is read-only and would be written; use {name}.copy()")
    return seen


def stored_view(array: Any, spec: Spec) -> DeviceArray:
    """The array that embeddings are read from, as kernels take it: bfloat16 by its bits."""
    shape = (spec.array_size,)
    if not is_bfloat16(array):
        return view("array", array, shape, STORED_DTYPES)
    bits = sys.modules["torch"].int16 if is_tensor(array) else BFLOAT16_BITS
    return view("array", array.view(bits), shape, (BFLOAT16_BITS,))


def _check_place(name: str, seen: DeviceArray) -> None:
    """Elements begin at multiples of their size, in memory of the current GPU."""
    if seen.pointer % seen.dtype.itemsize:
        raise ValueError(f"{name} is not aligned in memory; use {name}.copy()")
    if SIMULATED:
        return
    current, home = current_device(), seen.home
    if home is None:
        home = array_library().cuda.runtime.pointerGetAttributes(seen.pointer).device
    if home != current:
        raise ValueError(
            f"{name} is on GPU {home} but the current one is {current}; work within "
            f"cupy.cuda.Device({home}), with all arrays there"
        )


def check_apart(written: dict[str, Any], read: dict[str, Any]) -> None:
    """Require that written arrays share no memory with any other; `view` rejects non-arrays."""
    extents = {name: _extent(array) for name, array in written.items() if array is not None}
    if not extents:
        return
    others = extents | {name: _extent(array) for name, array in read.items()}
    for name, (begin, end) in extents.items():
        for other, (low, high) in others.items():
            if low < end and begin < high and other != name:
                raise ValueError(f"{name} and {other} share memory; use {other}.copy()")


def _extent(array: Any) -> tuple[int, int]:
    """Addresses of the first byte of a C-contiguous array and of the byte after its last.

    Anything that is not an array on a GPU has the empty extent (0, 0).
    """
    if not isinstance(array, DeviceArray):
        if not is_on_device(array):
            return 0, 0
        array = of(array)
    return array.pointer, array.pointer + array.size * array.dtype.itemsize


def check_step(
    spec: Spec,
    lr: Any,
    written: dict[str, Any],
    read: dict[str, Any],
    state_block: int = 1,
) -> tuple[list[DeviceArray], Rate]:
    """Views of what an update writes, the array first, and its learning rate."""
    check_spec(spec)
    check_state_block(state_block)
    shape = (spec.array_size,)
    seen = [view("array", written["array"], shape, ARRAY_DTYPES, written=True)]
    if "state_sum" in written:
        state_sum = view("state_sum", written["state_sum"], None, (seen[0].dtype,), written=True)
        check_state_shape(state_sum, spec.array_size, state_block)
        seen.append(state_sum)
    check_apart(dict(zip(written, seen, strict=True)), read)
    return seen, check_rate(lr, seen[0].dtype)


def check_rate(lr: Any, dtype: np.dtype) -> Rate:
    """A learning rate, a number or an array of one element on the GPU, which is not looked at."""
    if not is_on_device(lr):
        return (dtype.type(check_scalar("lr", lr, 0, dtype)),)
    seen = view("lr", lr, None, (dtype,))
    if seen.size != 1:
        raise ValueError(f"lr has shape {seen.shape}; an array of it must have one element")
    return seen.flat()
