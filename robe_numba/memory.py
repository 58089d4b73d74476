"""Memory as kernels like it: on cache lines, and kept from call to call."""

import math
import sys
import threading
from typing import Any

import numpy as np

CACHE_LINE = 64  # bytes

_kept = threading.local()  # of each Python thread its own: threads may call kernels at once


def aligned_empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """A new array of any content that begins a cache line; NumPy itself promises 16 bytes."""
    dtype = np.dtype(dtype)
    num_bytes = math.prod(shape) * dtype.itemsize
    buffer = np.empty(num_bytes + CACHE_LINE, dtype=np.uint8)
    begin = -buffer.__array_interface__["data"][0] % CACHE_LINE
    return buffer[begin : begin + num_bytes].view(dtype).reshape(shape)


def _unused() -> int:
    """How many references Python counts to memory that is kept and was taken once, just now."""
    kept = aligned_empty((1,), np.uint8)
    array = kept[:1].view(np.uint8).reshape((1,))
    return sys.getrefcount(kept.base) + 0 * array.size


UNUSED = _unused()  # it may differ between Python's versions


def scratch(name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array of any content, the caller's for as long as anything refers to its memory.

    The memory is kept by name for the next call, as fresh memory would cost a page fault for every
    4096 bytes, more than some kernels take. While it is in use a request gets new memory, which is
    kept in its place: a signal handler or a finalizer may call kernels between any two lines of
    this thread.
    """
    dtype = np.dtype(dtype)
    num_bytes = math.prod(shape) * dtype.itemsize
    kept = getattr(_kept, name, None)
    if kept is not None and kept.size >= num_bytes:
        # Taken before it is looked at, so that whoever comes between the two sees it in use.
        array = kept[:num_bytes].view(dtype).reshape(shape)
        if sys.getrefcount(kept.base) == UNUSED:
            return array
    kept = aligned_empty((num_bytes,), np.uint8)
    setattr(_kept, name, kept)
    return kept[:num_bytes].view(dtype).reshape(shape)
