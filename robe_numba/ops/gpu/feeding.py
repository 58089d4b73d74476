"""Batches for a GPU, each copied while the GPU works on the one before it."""

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from robe_numba.checks.arrays import check_array
from robe_numba.kernels.gpu.compiler import cuda
from robe_numba.kernels.gpu.context import DeviceContext
from robe_numba.ops.gpu.device import numba_stream, numba_view, side_stream, stream_of

BUFFERS = 2  # batches on the GPU at a time


class BatchBuffer:
    """Memory for one batch: pinned pages of the host, for asynchronous copies, and GPU arrays.

    Parameters
    ----------
    context : DeviceContext
    arrays : list of ndarray
        Of the host, with the most rows of each that the buffer will hold.
    """

    def __init__(self, context: DeviceContext, arrays: list[np.ndarray]):
        self._pinned = [_pinned(array.shape, array.dtype) for array in arrays]
        self._arrays = [context.empty(array.shape, array.dtype) for array in arrays]
        self._copied, self._used = cuda.event(), cuda.event()
        # The GPU may still be using what was in this memory before.
        self._used.record(numba_stream(context.stream))

    def holds(self, arrays: list[np.ndarray]) -> bool:
        """Whether there is room for the rows of each array."""
        return all(
            len(array) <= len(room) for array, room in zip(arrays, self._arrays, strict=True)
        )

    def larger(self, context: DeviceContext, arrays: list[np.ndarray]) -> "BatchBuffer":
        """A buffer with room for what this one holds, and for these arrays.

        Lists differ in length from batch to batch; so the rooms are soon the largest that occur.
        """
        pairs = zip(arrays, self._pinned, strict=True)
        return BatchBuffer(context, [max(pair, key=len) for pair in pairs])

    def fill(self, arrays: list[np.ndarray], stream: Any) -> list[Any]:
        """Begin to copy arrays on a stream, and return them as they will be on the GPU."""
        self.wait()
        self._used.wait(stream)
        filled = []
        for array, pinned, target in zip(arrays, self._pinned, self._arrays, strict=True):
            rows = len(array)
            pinned[:rows] = array
            numba_view(target[:rows]).copy_to_device(pinned[:rows], stream=stream)
            filled.append(target[:rows])
        self._copied.record(stream)
        return filled

    def wait(self) -> None:
        """Wait until the last batch has been copied, so that its pages may change or be freed."""
        self._copied.synchronize()

    def begin(self, stream: Any) -> None:
        """Make a stream wait for the copy."""
        self._copied.wait(stream)

    def end(self, stream: Any) -> None:
        """Make the next copy wait for what a stream has been given so far."""
        self._used.record(stream)


def _check(batch: Any, first: Any) -> list[np.ndarray]:
    """The arrays of a batch, which must be like those of the first batch."""
    if not hasattr(batch, "_fields"):
        raise TypeError(f"batches must be named tuples, got {type(batch).__name__}")
    arrays = {name: a for name, a in zip(batch._fields, batch, strict=True) if a is not None}
    wanted = {name: a for name, a in zip(first._fields, first, strict=True) if a is not None}
    if not arrays or set(arrays) != set(wanted):
        raise ValueError(
            f"a batch has arrays for {sorted(arrays)}, the first for {sorted(wanted)}; give each "
            f"the same, at least one"
        )
    rows = len(next(iter(arrays.values())))
    for name, array in arrays.items():
        like = wanted[name]
        shape = (rows, *like.shape[1:]) if like.ndim > 1 else np.shape(array)[:1]
        check_array(name, array, shape, (like.dtype,))
    return list(arrays.values())


def _pinned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Pinned memory of the host; NumPy's if it is empty, which CUDA refuses."""
    return cuda.pinned_array(shape, dtype) if math.prod(shape) else np.empty(shape, dtype)


def feed(batches: Iterable[Any]) -> Iterator[Any]:
    """Copy batches to the GPU ahead of their use.

    A batch's arrays are overwritten after the next batch is asked for.

    Parameters
    ----------
    batches : iterable of NamedTuple
        Of NumPy arrays, (rows, ...), or None. Those of one dimension may have any length, as lists
        of ids have.

    Yields
    ------
    NamedTuple
        Each batch with its arrays on the GPU.

    Raises
    ------
    TypeError
        Where a batch is not a named tuple, or an array has another dtype than the first batch's.
    ValueError
        Where a batch differs from the first in other things than its number of rows.
    """
    first = None
    buffers: list[BatchBuffer] = []
    ahead = None
    with side_stream() as copying:
        try:
            for number, batch in enumerate(batches):
                first = first or batch
                arrays = _check(batch, first)
                buffer = _buffer(buffers, number, arrays)
                filled = iter(buffer.fill(arrays, copying))
                following = (
                    buffer,
                    type(batch)(*(None if a is None else next(filled) for a in batch)),
                )
                if ahead is not None:
                    yield from _lend(*ahead)
                ahead = following
            if ahead is not None:
                yield from _lend(*ahead)
        finally:
            copying.synchronize()  # before the memory is freed


def _buffer(buffers: list[BatchBuffer], number: int, arrays: list[np.ndarray]) -> BatchBuffer:
    """The buffer of a batch, large enough for it."""
    place = number % BUFFERS
    with stream_of(None) as context:
        if place == len(buffers):
            buffers.append(BatchBuffer(context, arrays))
        elif not buffers[place].holds(arrays):
            buffers[place].wait()
            buffers[place] = buffers[place].larger(context, arrays)
    return buffers[place]


def _lend(buffer: BatchBuffer, batch: Any) -> Iterator[Any]:
    """Yield the batch of a buffer between `begin` and `end`."""
    with stream_of(None) as context:
        buffer.begin(numba_stream(context.stream))
    yield batch
    with stream_of(None) as context:
        buffer.end(numba_stream(context.stream))
