"""Arrays on a GPU, of whatever library, and the stream that work goes onto.

Nothing here looks at values, which would wait for the device: kernels are safe for any. Only the
constants of a spec are waited for, at its first use on a device.
"""

import math
import sys
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from typing import Any, NamedTuple

import numba
import numpy as np
from numba import cuda

from robe_numba import checks
from robe_numba.checks import GPU_NEEDS, is_on_device
from robe_numba.coefficients import hash_spec
from robe_numba.gpu import simulated
from robe_numba.hashing import HashSpec
from robe_numba.spec import Spec
from robe_numba.state_blocks import check_state_block, check_state_shape

# Small launches are meant: a batch may be small.
warnings.filterwarnings("ignore", "Grid size .* under-utilization")

INT64 = (np.dtype(np.int64),)
SIMULATED = bool(numba.config.ENABLE_CUDASIM)


class Work(NamedTuple):
    """What a call works with."""

    xp: Any  # see `array_library`
    stream: Any  # the caller's, for kernels

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """A new array of any content."""
        return self.xp.empty(shape, dtype)

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """A new array of zeros."""
        return self.xp.zeros(shape, dtype)

    def order(self, keys: Any, dtype: Any) -> tuple[Any, Any]:
        """Which element of keys (n,) comes first, second, ... in a stable sort of their lowest bits
        as an unsigned dtype; and those sorted.
        """
        values = self.xp.asarray(Unordered(keys)).astype(dtype, copy=False)
        order = self.xp.argsort(values, kind="stable")
        return as_seen(order), as_seen(values[order])


class Unordered:
    """The memory of an array as kernels take it, for CuPy to convert without waiting.

    Numba says on which stream an array came, and CuPy waits for any stream that it is told of.
    """

    def __init__(self, seen: Any):
        self._seen = seen

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {**interface(self._seen), "stream": None}


def interface(array: Any) -> dict[str, Any]:
    """What an array, the user's or one as kernels take it, says of its memory."""
    simulated_seen = SIMULATED and hasattr(array, "__cuda_ndarray__")
    return array.__array_interface__ if simulated_seen else array.__cuda_array_interface__


def as_seen(array: Any) -> Any:
    """A device array as kernels take it."""
    return simulated.seen(array) if SIMULATED else cuda.as_cuda_array(array, sync=False)


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


def check_gpu() -> None:
    """Require a GPU.

    Raises
    ------
    ImportError : CuPy is not installed.
    OSError : there is no GPU, or no driver for it.
    """
    if SIMULATED:
        return
    try:
        array_library().cuda.runtime.getDevice()
    except RuntimeError as error:
        raise OSError(f"no GPU can be used ({error}); use device 'cpu'") from None


def choose(number: int) -> None:
    """Work on the GPU of this number, modulo how many there are; of CuPy and of Numba."""
    if SIMULATED:
        return
    cupy = array_library()
    chosen = number % cupy.cuda.runtime.getDeviceCount()
    cupy.cuda.Device(chosen).use()
    cuda.select_device(chosen)


def wait() -> None:
    """Until all is done that was asked of CuPy's current stream."""
    if not SIMULATED:
        array_library().cuda.get_current_stream().synchronize()


def new_stream() -> AbstractContextManager[Any]:
    """A stream that is the current one within the block, and that waits for no other."""
    return simulated.new_stream() if SIMULATED else array_library().cuda.Stream(non_blocking=True)


@contextmanager
def work_on(array: Any) -> Iterator[Work]:
    """Work on the caller's current stream: PyTorch's if `array` is a tensor, else CuPy's."""
    if SIMULATED:
        yield Work(simulated, 0)
        return
    cupy = array_library()
    if checks.is_tensor(array):
        stream = sys.modules["torch"].cuda.current_stream(array.device)
        address = stream.cuda_stream
        if address == 0:
            context = cupy.cuda.Stream.null
        elif hasattr(stream, "__cuda_stream__"):
            context = cupy.cuda.Stream.from_external(stream)
        else:
            context = cupy.cuda.ExternalStream(address)
    else:
        address, context = cupy.cuda.get_current_stream().ptr, nullcontext()
    with context:
        yield Work(cupy, _stream_at(address))


@lru_cache(maxsize=64)
def _stream_at(address: int) -> Any:
    """A stream for kernels; one object for each, by which Numba remembers its launches."""
    return cuda.external_stream(address)


@contextmanager
def side_stream() -> Iterator[Any]:
    """A stream for kernels and copies beside all others, within the block."""
    if SIMULATED:
        yield cuda.stream()
        return
    stream = array_library().cuda.Stream(non_blocking=True)  # Numba's own wait for the default one
    yield cuda.external_stream(stream.ptr)


def view(
    name: str,
    array: Any,
    shape: tuple[int, ...] | None,
    dtypes: tuple[np.dtype, ...],
    written: bool = False,
) -> Any:
    """A device array as kernels take it: C-contiguous, of one of the dtypes and of the shape."""
    if not is_on_device(array):
        kind = type(array)
        raise TypeError(
            f"{name} must be an array on a GPU as the others are, got {kind.__module__}."
            f"{kind.__name__}; use cupy.asarray({name})"
        )
    if getattr(array, "requires_grad", False):
        raise ValueError(f"{name} requires a gradient of PyTorch; use {name}.detach()")
    seen = as_seen(array)
    if seen.dtype not in dtypes:
        raise TypeError(f"{name} has dtype {seen.dtype}; it must be {checks.names_of(dtypes)}")
    if shape is not None and tuple(seen.shape) != shape:
        raise ValueError(f"{name} has shape {tuple(seen.shape)}; expected {shape}")
    if not seen.is_c_contiguous():
        raise ValueError(f"{name} is not C-contiguous; use cupy.ascontiguousarray({name})")
    if seen.size:
        _check_place(name, seen)
    if written and array.__cuda_array_interface__["data"][1]:
        raise ValueError(f"{name} is read-only and would be written; use {name}.copy()")
    return seen


def stored_view(array: Any, spec: Spec) -> Any:
    """The array that embeddings are read from, as kernels take it: bfloat16 by its bits."""
    shape = (spec.array_size,)
    if not checks.is_bfloat16(array):
        return view("array", array, shape, checks.STORED_DTYPES)
    bits = sys.modules["torch"].int16 if checks.is_tensor(array) else checks.BFLOAT16_BITS
    return view("array", array.view(bits), shape, (checks.BFLOAT16_BITS,))


def _check_place(name: str, seen: Any) -> None:
    """Elements begin at multiples of their size, in memory of the current GPU."""
    first = address(seen)
    if first % seen.dtype.itemsize:
        raise ValueError(f"{name} is not aligned in memory; use {name}.copy()")
    if SIMULATED:
        return
    runtime = array_library().cuda.runtime
    home, current = runtime.pointerGetAttributes(first).device, runtime.getDevice()
    if home != current:
        raise ValueError(
            f"{name} is on GPU {home} but the current one is {current}; work within "
            f"cupy.cuda.Device({home}), with all arrays there"
        )


def check_apart(written: dict[str, Any], read: dict[str, Any]) -> None:
    """What is written shares no memory with any other array; what is no array is seen to later."""
    every = {
        name: _extent(array) for name, array in (written | read).items() if is_on_device(array)
    }
    for name in written:
        for other, (low, high) in every.items():
            if name in every and name != other and low < every[name][1] and every[name][0] < high:
                raise ValueError(f"{name} and {other} share memory; use {other}.copy()")


def check_step(
    spec: Spec,
    lr: float,
    written: dict[str, Any],
    read: dict[str, Any],
    state_block: int = 1,
) -> tuple[list[Any], float]:
    """Views of what an update writes, the array first, and its learning rate."""
    checks.check_spec(spec)
    check_state_block(state_block)
    shape = (spec.array_size,)
    seen = [view("array", written["array"], shape, checks.ARRAY_DTYPES, written=True)]
    if "state_sum" in written:
        state_sum = view("state_sum", written["state_sum"], None, (seen[0].dtype,), written=True)
        check_state_shape(state_sum, spec.array_size, state_block)
        seen.append(state_sum)
    check_apart(written, read)
    return seen, checks.check_scalar("lr", lr, 0, seen[0].dtype)


def _extent(array: Any) -> tuple[int, int]:
    """Addresses of the first byte of a C-contiguous array and of the one after its last."""
    memory = interface(array)
    num_bytes = math.prod(memory["shape"]) * np.dtype(memory["typestr"]).itemsize
    return memory["data"][0], memory["data"][0] + num_bytes


def address(seen: Any) -> int:
    """Of an array's first byte; 0 if it has none."""
    return int((seen.ctypes.data if SIMULATED else seen.device_ctypes_pointer.value) or 0)


def flat(seen: Any, dtype: Any = None) -> Any:
    """A view (n,) of what `view` returned, of another dtype of equal size if given."""
    seen = seen.reshape(seen.size)
    return seen if dtype is None else seen.view(np.dtype(dtype))


def seen_flat(array: Any, dtype: Any = None) -> Any:
    """As `flat`, of an array that was made here."""
    return flat(as_seen(array), dtype)


def device_spec(spec: Spec) -> HashSpec:
    """The kernels' constants of a spec, on the current device."""
    if SIMULATED:
        return hash_spec(spec)
    return _on_device(spec, array_library().cuda.runtime.getDevice())


@lru_cache(maxsize=64)
def _on_device(spec: Spec, device: int) -> HashSpec:
    constants = hash_spec(spec)
    constants = constants._replace(
        coefficients=cuda.to_device(constants.coefficients),
        sign_keys=cuda.to_device(constants.sign_keys),
    )
    cuda.default_stream().synchronize()  # once: streams that do not wait for it read them next
    return constants
