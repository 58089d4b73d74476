"""The GPU that calls work on, and the streams that their work goes onto.

Only the constants of a spec are waited for, at its first use on a device.
"""

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from robe_numba.coefficients import hash_spec
from robe_numba.device_arrays import is_tensor
from robe_numba.kernels.gpu import arrays, simulated
from robe_numba.kernels.gpu.arrays import DeviceArray, array_library, current_device
from robe_numba.kernels.gpu.compiler import SIMULATED, cuda
from robe_numba.kernels.gpu.launch import Prepared
from robe_numba.spec import Spec


class Work(NamedTuple):
    """What a call works with."""

    xp: Any  # see `array_library`
    stream: int  # address of the caller's
    device: int  # number of the GPU

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """A new array of any content."""
        return self.xp.empty(shape, dtype)

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """A new array of zeros."""
        return self.xp.zeros(shape, dtype)

    def scratch(self, size: int, dtype: Any) -> DeviceArray:
        """Memory (size,) of any content, as kernels take it."""
        return arrays.of(self.xp.empty(size, dtype))

    def begin_thread(self) -> None:
        """Let the calling thread work on the GPU: CUDA knows one for each thread."""
        self.xp.cuda.Device(self.device).use()
        self.xp.cuda.runtime.free(0)


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
        current_device()
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


class work_on:  # noqa: N801 - reads as a statement
    """Work on the caller's current stream within the block: PyTorch's if `array` is a tensor, else
    CuPy's. A class costs less than a generator.
    """

    __slots__ = ("_array", "_context")

    def __init__(self, array: Any):
        self._array = array

    def __enter__(self) -> Work:
        self._context: Any = None
        if SIMULATED:
            return Work(simulated, 0, 0)
        cupy = array_library()
        address = cupy.cuda.get_current_stream().ptr
        if is_tensor(self._array):
            stream = sys.modules["torch"].cuda.current_stream(self._array.device)
            if stream.cuda_stream != address:
                address = stream.cuda_stream
                self._context = _cupy_stream(cupy, stream)
                self._context.__enter__()
        return Work(cupy, address, cupy.cuda.runtime.getDevice())

    def __exit__(self, *error: Any) -> None:
        if self._context is not None:
            self._context.__exit__(*error)


def _cupy_stream(cupy: Any, stream: Any) -> Any:
    """CuPy's name for a stream of PyTorch's."""
    if stream.cuda_stream == 0:
        return cupy.cuda.Stream.null
    if hasattr(stream, "__cuda_stream__"):
        return cupy.cuda.Stream.from_external(stream)
    return cupy.cuda.ExternalStream(stream.cuda_stream)


def numba_stream(address: int) -> Any:
    """A stream as Numba's events and copies take it."""
    return address if SIMULATED else cuda.external_stream(address)


def as_seen(array: Any) -> Any:
    """A device array as Numba's copies take it."""
    return simulated.seen(array) if SIMULATED else cuda.as_cuda_array(array, sync=False)


@contextmanager
def side_stream() -> Iterator[Any]:
    """A stream of Numba's for copies beside all others, within the block."""
    if SIMULATED:
        yield cuda.stream()
        return
    stream = array_library().cuda.Stream(non_blocking=True)  # Numba's own wait for the default one
    yield cuda.external_stream(stream.ptr)


def device_spec(spec: Spec, work: Work) -> Prepared:
    """The kernels' constants of a spec, on the device of `work`."""
    return constants_on(spec, work.device)


@lru_cache(maxsize=64)
def constants_on(spec: Spec, device: int) -> Prepared:
    """As `device_spec`, by the number of the device."""
    constants: Any = hash_spec(spec)  # whose arrays are replaced by their copies on the device
    xp = array_library()

    def put(array: np.ndarray) -> DeviceArray:
        return arrays.of(xp.asarray(array, blocking=True))  # streams read them without waiting

    return Prepared(
        constants._replace(
            coefficients=put(constants.coefficients), sign_keys=put(constants.sign_keys)
        )
    )
