"""The stand-in for CuPy if Numba simulates the GPU: NumPy arrays of a type of their own.

The simulator runs kernels in Python on the host. These arrays say that they are on a GPU, so that
everything around the kernels runs as it would there. Names not defined here are NumPy's.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np


class ndarray(np.ndarray):  # noqa: N801 - CuPy's name
    """A NumPy array that stands in for one on a GPU."""

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return self.__array_interface__

    def get(self) -> np.ndarray:
        """Copy the array to the host."""
        return np.array(self)


def asarray(array: Any, blocking: bool = False) -> Any:
    """Give the array itself if it is an `ndarray`, a view if it says it is on a GPU, or a copy."""
    if isinstance(array, ndarray):
        return array
    if hasattr(array, "__cuda_array_interface__"):
        return np.asarray(_Memory(array)).view(ndarray)
    return np.array(array, order="C").view(ndarray)


class _Memory:
    """Memory that NumPy makes a view of, and keeps alive."""

    def __init__(self, owner: Any):
        self.owner, interface = owner, dict(owner.__cuda_array_interface__)
        if interface.pop("stream", None) is not None:
            raise AssertionError("CuPy would wait for the stream")
        self.__array_interface__ = interface


def numba_view(array: Any) -> Any:
    """A view of an array as the simulator's kernels take it."""
    from robe_numba.kernels.gpu.compiler import FakeCUDAArray

    return FakeCUDAArray(array.view(np.ndarray))


def empty(shape: Any, dtype: Any) -> Any:
    """As `numpy.empty`."""
    return np.empty(shape, dtype).view(ndarray)


def zeros(shape: Any, dtype: Any) -> Any:
    """As `numpy.zeros`."""
    return np.zeros(shape, dtype).view(ndarray)


def _there(function: Any) -> Callable[..., Any]:
    """NumPy's function, whose result would not say that it is on a GPU."""
    return lambda *arguments, **options: function(*arguments, **options).view(ndarray)


arange, concatenate, ones = _there(np.arange), _there(np.concatenate), _there(np.ones)
searchsorted, where = _there(np.searchsorted), _there(np.where)


def new_stream() -> AbstractContextManager[None]:
    """Do nothing: there are no streams, and work is done when a call returns."""
    return nullcontext()


def __getattr__(name: str) -> Any:
    return getattr(np, name)
