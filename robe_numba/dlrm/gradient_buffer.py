"""Named arrays in one flat memory, and the sum of the gradients of a batch's parts in order."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numba import prange

from robe_numba._jit import inner, jit
from robe_numba.dlrm.layers.linear import GradPair
from robe_numba.kernels.cpu.launch import launch, threads_for
from robe_numba.kernels.cpu.simd.types import load_x1, load_x16, store
from robe_numba.kernels.cpu.starts import share
from robe_numba.kernels.scalar.unsigned import ONE, U16


class Gradients(NamedTuple):
    """What backpropagation gives for a batch."""

    loss: Any  # float; on a GPU an array () there
    dense: Any  # (n,), of all dense parameters, flat
    embeddings: Any  # (batch, num_tables, d), of what was looked up
    context: Any  # of the lookup; None where it was not kept


@jit(parallel=True)
def _sum_rows(rows: Any, count: Any, total: Any, num_workers: int) -> None:
    """total (n,) = the sum of the first rows of the flat `rows`; one iteration owns a share."""
    size = np.uint64(total.size)
    for worker in prange(num_workers):
        first, last = share(size, worker, num_workers)
        _sum_range(rows, np.uint64(count), size, first, last, total)


@inner
def _sum_range(rows: Any, count: Any, size: Any, first: Any, last: Any, total: Any) -> None:
    """Sum elements [first, last), row 0 first."""
    while first + U16 <= last:
        value = load_x16(rows, first)
        for row in range(ONE, count):
            value = value + load_x16(rows, row * size + first)
        store(total, first, value)
        first += U16
    while first < last:
        value = load_x1(rows, first)
        for row in range(ONE, count):
            value = value + load_x1(rows, row * size + first)
        store(total, first, value)
        first += ONE


LANES = 16  # partial sums, so that squares are added in vectors and always in one order


@jit
def _sum_of_squares(values: Any, sums: Any) -> float:
    """One thread owns all elements of values (n,); sums (LANES,) is scratch."""
    sums[:] = 0
    whole = values.size - values.size % LANES
    for first in range(0, whole, LANES):
        for lane in range(LANES):
            value = np.float64(values[first + lane])
            sums[lane] += value * value
    for last in range(whole, values.size):
        sums[0] += np.float64(values[last]) ** 2
    return sums.sum()


def sum_rows(rows: np.ndarray, total: np.ndarray) -> None:
    """total (n,) = the sum of `rows` (count, n), row 0 first; the same bits for any threads."""
    threads = threads_for(rows.size)
    launch(threads, _sum_rows, rows.reshape(-1), len(rows), total, threads)


def sum_of_squares(arrays: Sequence[np.ndarray]) -> float:
    """Of all elements of C-contiguous NumPy arrays, in one order."""
    sums = np.empty(LANES)
    return float(sum(_sum_of_squares(array.reshape(-1), sums) for array in arrays))


def clip_together(arrays: Sequence[np.ndarray], squares: float, limit: float) -> None:
    """Scale NumPy arrays in place, as takes a vector of these squares to a norm of `limit`."""
    norm = math.sqrt(squares)
    if norm > limit:
        for array in arrays:
            array *= array.dtype.type(limit / norm)


def named_views(flat: Any, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Arrays of these shapes, one after the other in the memory of `flat` (n,)."""
    views, start = {}, 0
    for name, shape in shapes.items():
        stop = start + math.prod(shape)
        views[name] = flat[start:stop].reshape(shape)
        start = stop
    return views


def layers_of(named: Mapping[str, np.ndarray], mlp: str) -> list[GradPair]:
    """The (weight, bias) of each layer of "bottom" or "top", in order."""
    count = sum(name.startswith(f"{mlp}.") for name in named) // 2
    return [(named[f"{mlp}.{i}.weight"], named[f"{mlp}.{i}.bias"]) for i in range(count)]
