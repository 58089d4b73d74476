"""Room for the dense gradients of each part of a batch, and their sum in a fixed order."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from robe_numba._jit import jit
from robe_numba.dlrm.linear import GradPair

_CHUNK = 4096  # elements whose running sum stays in the first-level cache


@jit
def _sum_rows(rows: Any, total: Any) -> None:
    """One thread owns all elements; row 0 is added first."""
    for start in range(0, total.size, _CHUNK):
        chunk = total[start : start + _CHUNK]
        chunk[:] = rows[0, start : start + _CHUNK]
        for part in range(1, len(rows)):
            row = rows[part, start : start + _CHUNK]
            for i in range(chunk.size):
                chunk[i] += row[i]


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
        _sum_rows(self._rows[:count], self._total)
        return self._named(self._total)

    def _named(self, flat: np.ndarray) -> dict[str, np.ndarray]:
        views, start = {}, 0
        for name, shape in self._shapes.items():
            stop = start + int(np.prod(shape))
            views[name] = flat[start:stop].reshape(shape)
            start = stop
        return views
