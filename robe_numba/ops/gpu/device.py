"""GPUs and their streams: choosing a GPU, waiting for it, and working on the caller's stream."""

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from robe_numba.device_arrays import is_tensor
from robe_numba.kernels.gpu import simulated
from robe_numba.kernels.gpu.arrays import array_library
from robe_numba.kernels.gpu.compiler import SIMULATED, cuda
from robe_numba.kernels.gpu.context import DeviceContext


def current_device() -> int:
    """The number of the GPU that CuPy uses."""
    return 0 if SIMULATED else array_library().cuda.runtime.getDevice()


def check_gpu() -> None:
    """Require a GPU.

    Raises
    ------
    ImportError
        Where CuPy is not installed.
    OSError
        Where there is no GPU, or no driver for it.
    """
    if SIMULATED:
        return
    try:
        current_device()
    except RuntimeError as error:
        raise OSError(f"no GPU can be used ({error}); use device 'cpu'") from None


def choose(number: int) -> None:
    """Make CuPy and Numba use the GPU of this number, modulo how many there are."""
    if SIMULATED:
        return
    cupy = array_library()
    chosen = number % cupy.cuda.runtime.getDeviceCount()
    cupy.cuda.Device(chosen).use()
    cuda.select_device(chosen)


def wait() -> None:
    """Wait until CuPy's current stream has done all its work."""
    if not SIMULATED:
        array_library().cuda.get_current_stream().synchronize()


def new_stream() -> AbstractContextManager[Any]:
    """A new stream that waits for no other, and is CuPy's current one within the block."""
    return simulated.new_stream() if SIMULATED else array_library().cuda.Stream(non_blocking=True)


class stream_of:  # noqa: N801 - reads as a statement
    """Within the block, work on the caller's current stream: PyTorch's if `array` is a tensor,
    else CuPy's.

    This is a class because a generator costs more.
    """

    __slots__ = ("_array", "_context")

    def __init__(self, array: Any):
        self._array = array

    def __enter__(self) -> DeviceContext:
        self._context: Any = None
        if SIMULATED:
            return DeviceContext(simulated, 0, 0)
        cupy = array_library()
        address = cupy.cuda.get_current_stream().ptr
        if is_tensor(self._array):
            stream = sys.modules["torch"].cuda.current_stream(self._array.device)
            if stream.cuda_stream != address:
                address = stream.cuda_stream
                self._context = _cupy_stream(cupy, stream)
                self._context.__enter__()
        return DeviceContext(cupy, address, cupy.cuda.runtime.getDevice())

    def __exit__(self, *error: Any) -> None:
        if self._context is not None:
            self._context.__exit__(*error)


def _cupy_stream(cupy: Any, stream: Any) -> Any:
    """A stream of PyTorch as one of CuPy."""
    if stream.cuda_stream == 0:
        return cupy.cuda.Stream.null
    if hasattr(stream, "__cuda_stream__"):
        return cupy.cuda.Stream.from_external(stream)
    return cupy.cuda.ExternalStream(stream.cuda_stream)


def numba_stream(address: int) -> Any:
    """The stream at an address, as Numba's events and copies take it."""
    return address if SIMULATED else cuda.external_stream(address)


def numba_view(array: Any) -> Any:
    """A device array as Numba's copies take it."""
    return simulated.numba_view(array) if SIMULATED else cuda.as_cuda_array(array, sync=False)


@contextmanager
def side_stream() -> Iterator[Any]:
    """Within the block, a stream of Numba for copies, which waits for no other."""
    if SIMULATED:
        yield cuda.stream()
        return
    stream = array_library().cuda.Stream(non_blocking=True)  # Numba's own wait for the default one
    yield cuda.external_stream(stream.ptr)
