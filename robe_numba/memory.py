"""Memory as kernels like it: on cache lines, and kept from call to call."""

import math
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


def scratch(name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array of any content, this thread's until its next request of that name.

    Fresh memory would cost a page fault for every 4096 bytes, more than some kernels take.
    """
    dtype = np.dtype(dtype)
    num_bytes = math.prod(shape) * dtype.itemsize
    buffer = getattr(_kept, name, None)
    if buffer is None or buffer.size < num_bytes:
        buffer = aligned_empty((num_bytes,), np.uint8)
        setattr(_kept, name, buffer)
    return buffer[:num_bytes].view(dtype).reshape(shape)
