"""Batches of the host for a GPU, each copied while the one before it is computed with."""

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from robe_numba.checks.arrays import check_array
from robe_numba.kernels.gpu.compiler import cuda
from robe_numba.kernels.gpu.device import Work, as_seen, numba_stream, side_stream, work_on

SLOTS = 2  # batches on the GPU at a time


class Slot:
    """Memory for one batch on both sides: pages of the host that stay where they are, for copies
    that nobody waits for, and arrays of the GPU.

    Parameters
    ----------
    arrays : of the host, of the most rows that the slot will hold.
    """

    def __init__(self, work: Work, arrays: list[np.ndarray]):
        self._pinned = [_pinned(array.shape, array.dtype) for array in arrays]
        self._arrays = [work.empty(array.shape, array.dtype) for array in arrays]
        self._copied, self._used = cuda.event(), cuda.event()
        self._used.record(
            numba_stream(work.stream)
        )  # what had the memory before may still be computed with

    def holds(self, rows: int) -> bool:
        """Whether there is room for so many rows."""
        return rows <= len(self._arrays[0])

    def fill(self, arrays: list[np.ndarray], stream: Any) -> list[Any]:
        """Begin to copy arrays on a stream; where they will be on the GPU."""
        self.wait()
        self._used.wait(stream)
        filled, rows = [], len(arrays[0])
        for array, pinned, target in zip(arrays, self._pinned, self._arrays, strict=True):
            pinned[:rows] = array
            as_seen(target[:rows]).copy_to_device(pinned[:rows], stream=stream)
            filled.append(target[:rows])
        self._copied.record(stream)
        return filled

    def wait(self) -> None:
        """Until the last batch has been copied, so that its pages may change or go."""
        self._copied.synchronize()

    def begin(self, stream: Any) -> None:
        """What follows on a stream comes after the copy."""
        self._copied.wait(stream)

    def end(self, stream: Any) -> None:
        """The next copy comes after what is on a stream."""
        self._used.record(stream)


def _check(batch: Any, first: Any) -> list[np.ndarray]:
    """The arrays of a batch, which are like those of the first: memory is kept for them."""
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
        check_array(name, array, (rows, *wanted[name].shape[1:]), (wanted[name].dtype,))
    return list(arrays.values())


def _pinned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Host memory that copies need not wait for; of nothing, which CUDA refuses, NumPy's."""
    return cuda.pinned_array(shape, dtype) if math.prod(shape) else np.empty(shape, dtype)


def feed(batches: Iterable[Any]) -> Iterator[Any]:
    """The batches, named tuples of NumPy arrays (rows, ...) or None, with arrays on the GPU.

    A batch's arrays are filled anew once the batch after it was asked for.

    Raises
    ------
    TypeError, ValueError : a batch is not as above, or not like the first but for its rows.
    """
    first = None
    slots: list[Slot] = []
    ahead = None
    with side_stream() as copying:
        try:
            for number, batch in enumerate(batches):
                first = first or batch
                arrays = _check(batch, first)
                slot = _slot(slots, number, arrays)
                filled = iter(slot.fill(arrays, copying))
                following = slot, type(batch)(*(None if a is None else next(filled) for a in batch))
                if ahead is not None:
                    yield from _lend(*ahead)
                ahead = following
            if ahead is not None:
                yield from _lend(*ahead)
        finally:
            copying.synchronize()  # before the memory is anybody else's


def _slot(slots: list[Slot], number: int, arrays: list[np.ndarray]) -> Slot:
    """The slot of a batch, which has room for it."""
    place = number % SLOTS
    if place < len(slots):
        if slots[place].holds(len(arrays[0])):
            return slots[place]
        slots[place].wait()
    with work_on(None) as work:
        slots[place : place + 1] = [Slot(work, arrays)]
    return slots[place]


def _lend(slot: Slot, batch: Any) -> Iterator[Any]:
    """The batch of a slot, for as long as the caller computes with it."""
    with work_on(None) as work:
        slot.begin(numba_stream(work.stream))
    yield batch
    with work_on(None) as work:
        slot.end(numba_stream(work.stream))
