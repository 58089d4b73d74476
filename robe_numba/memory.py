"""Memory for kernels: on cache lines, and kept from call to call."""

import math
import sys
import threading
from typing import Any

import numpy as np

CACHE_LINE = 64  # bytes

_kept = threading.local()  # each Python thread has its own, as threads may call kernels at once


def aligned_empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """A new uninitialized array that begins a cache line; NumPy itself aligns to 16 bytes."""
    dtype = np.dtype(dtype)
    num_bytes = math.prod(shape) * dtype.itemsize
    buffer = np.empty(num_bytes + CACHE_LINE, dtype=np.uint8)
    begin = -buffer.__array_interface__["data"][0] % CACHE_LINE
    return buffer[begin : begin + num_bytes].view(dtype).reshape(shape)


def _unused() -> int:
    """How many references Python counts to kept memory that has just been taken once."""
    kept = aligned_empty((1,), np.uint8)
    array = kept[:1].view(np.uint8).reshape((1,))
    return sys.getrefcount(kept.base) + 0 * array.size


UNUSED = _unused()  # it may differ between Python's versions


def scratch(name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An uninitialized array, the caller's for as long as anything refers to its memory.

    The memory is kept by name for the next call: fresh memory would cost a page fault for every
    4096 bytes, more than some kernels take. While it is in use, a request gets new memory, which
    is kept in its place. A signal handler or a finalizer may call kernels between any two lines of
    this thread.

    Parameters
    ----------
    name : str
        Of the memory that is kept, an identifier.
    shape : tuple of int
        Of the array.
    dtype : dtype
        Of the array.

    Returns
    -------
    ndarray, `shape` of `dtype`
        It begins a cache line.
    """
    dtype = np.dtype(dtype)
    num_bytes = math.prod(shape) * dtype.itemsize
    kept = getattr(_kept, name, None)
    if kept is not None and kept.size >= num_bytes:
        # Taken before the count is read, so that a call in between sees the memory in use.
        array = kept[:num_bytes].view(dtype).reshape(shape)
        if sys.getrefcount(kept.base) == UNUSED:
            return array
    kept = aligned_empty((num_bytes,), np.uint8)
    setattr(_kept, name, kept)
    return kept[:num_bytes].view(dtype).reshape(shape)
