"""What stands for CuPy where Numba simulates the GPU: NumPy's arrays, in a type of their own.

The simulator runs kernels in Python on the host. These arrays say that they are on a GPU, so that
everything around the kernels runs as it would there. What is not defined here is NumPy's.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np


class ndarray(np.ndarray):  # noqa: N801 - CuPy's name
    """A NumPy array that stands for one on a GPU."""

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return self.__array_interface__

    def get(self) -> np.ndarray:
        """A copy on the host."""
        return np.array(self)


def asarray(array: Any, blocking: bool = False) -> Any:
    """The array if it is one of these, a view of memory that says it is on a GPU, or a copy."""
    if isinstance(array, ndarray):
        return array
    if hasattr(array, "__cuda_array_interface__"):
        return np.asarray(_Memory(array)).view(ndarray)
    return np.array(array, order="C").view(ndarray)


class _Memory:
    """What NumPy makes a view of, and keeps."""

    def __init__(self, owner: Any):
        self.owner, interface = owner, dict(owner.__cuda_array_interface__)
        if interface.pop("stream", None) is not None:
            raise AssertionError("CuPy would wait for the stream")
        self.__array_interface__ = interface


def seen(array: Any) -> Any:
    """An array as the simulator's kernels take it, of the same memory."""
    from numba.cuda.simulator.cudadrv.devicearray import FakeCUDAArray

    return FakeCUDAArray(array.view(np.ndarray))


def empty(shape: Any, dtype: Any) -> Any:
    """As `numpy.empty`."""
    return np.empty(shape, dtype).view(ndarray)


def zeros(shape: Any, dtype: Any) -> Any:
    """As `numpy.zeros`."""
    return np.zeros(shape, dtype).view(ndarray)


def new_stream() -> AbstractContextManager[None]:
    """There are no streams: everything is done when a call returns."""
    return nullcontext()


def __getattr__(name: str) -> Any:
    return getattr(np, name)
