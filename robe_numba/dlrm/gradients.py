"""Kept memory for what the parts of a batch compute, and the sum of their gradients in order."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numba import prange

from robe_numba._jit import inner, jit
from robe_numba.cpu.launch import threads_for
from robe_numba.cpu.starts import share
from robe_numba.cpu.vector import load1, load16, store
from robe_numba.dlrm.linear import GradPair
from robe_numba.dlrm.presets import DLRMConfig
from robe_numba.memory import scratch
from robe_numba.unsigned import ONE, U16


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
        value = load16(rows, first)
        for row in range(ONE, count):
            value = value + load16(rows, row * size + first)
        store(total, first, value)
        first += U16
    while first < last:
        value = load1(rows, first)
        for row in range(ONE, count):
            value = value + load1(rows, row * size + first)
        store(total, first, value)
        first += ONE


class Activations(NamedTuple):
    """What the layers of a DLRM give for some rows of a batch."""

    bottom: list[np.ndarray]  # (batch, width) of each layer
    joined: np.ndarray  # (batch, width of the interaction)
    top: list[np.ndarray]  # (batch, width) of each layer


def kept_outputs(config: DLRMConfig, rows: int, dtype: Any) -> Activations:
    """Memory for the output of each layer, this thread's until its next request."""

    def arrays(mlp: str, widths: tuple[int, ...]) -> list[np.ndarray]:
        return [
            scratch(f"dlrm {mlp} {layer}", (rows, width), dtype)
            for layer, width in enumerate(widths)
        ]

    joined, *top = arrays("top", config.top_widths)
    return Activations(arrays("bottom", config.bottom_widths[1:]), joined, top)


def kept_grads(widths: tuple[int, ...], rows: int, dtype: Any) -> list[np.ndarray]:
    """Memory for the gradient of each layer's input, this thread's until its next request.

    Neighbours lie apart, others overlap: once a layer has the gradient of its input, nobody needs
    that of its output. So they stay in the cache.
    """
    return [
        scratch(f"dlrm grad {position % 2}", (rows, width), dtype)
        for position, width in enumerate(widths)
    ]


def layers_of(named: Mapping[str, np.ndarray], mlp: str) -> list[GradPair]:
    """The (weight, bias) of each layer of "bottom" or "top", in order."""
    count = sum(name.startswith(f"{mlp}.") for name in named) // 2
    return [(named[f"{mlp}.{i}.weight"], named[f"{mlp}.{i}.bias"]) for i in range(count)]


class GradientBuffer:
    """One flat row of gradients per part of a batch, kept from step to step.

    Parameters
    ----------
    shapes : shape of each parameter by name.
    dtype : float32 or float64.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], dtype: Any):
        self._shapes = dict(shapes)
        self._size = sum(int(np.prod(shape)) for shape in shapes.values())
        self._rows = np.empty((0, self._size), dtype)
        self._total = np.empty(self._size, dtype)
        self._views: list[dict[str, np.ndarray]] = []

    def parts(self, count: int) -> list[dict[str, np.ndarray]]:
        """Named arrays for each of `count` parts to write all its gradients into."""
        if count > len(self._rows):
            self._rows = np.empty((count, self._size), self._rows.dtype)
            self._views = [self._named(row) for row in self._rows]
        return self._views[:count]

    def total(self, count: int) -> dict[str, np.ndarray]:
        """The sum of the first `count` parts, part 0 first; valid until the next call."""
        if count == 1:
            return self._views[0]
        with threads_for(count * self._total.size) as threads:
            _sum_rows(self._rows.reshape(-1), count, self._total, threads)
        return self._named(self._total)

    def _named(self, flat: np.ndarray) -> dict[str, np.ndarray]:
        views, start = {}, 0
        for name, shape in self._shapes.items():
            stop = start + int(np.prod(shape))
            views[name] = flat[start:stop].reshape(shape)
            start = stop
        return views
