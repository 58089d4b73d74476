"""Gradients of the dense parameters as one flat array: views by name, sums and norms."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from robe_numba.dlrm.layers.cross import CrossLayer
from robe_numba.dlrm.layers.linear import GradPair
from robe_numba.kernels.cpu import layers
from robe_numba.kernels.cpu.launch import launch, threads_for


def sum_rows(rows: np.ndarray, total: np.ndarray) -> None:
    """Sum `rows` (count, n) into total (n,), row 0 first, whatever the number of threads."""
    threads = threads_for(rows.size)
    launch(threads, layers.sum_rows, rows.reshape(-1), len(rows), total, threads)


def sum_of_squares(arrays: Sequence[np.ndarray]) -> float:
    """Sum over all elements of C-contiguous NumPy arrays, in a fixed order."""
    sums = np.empty(layers.LANES)
    return float(sum(layers.sum_of_squares(array.reshape(-1), sums) for array in arrays))


def clip_to_norm(arrays: Sequence[np.ndarray], squares: float, limit: float) -> None:
    """Scale NumPy arrays in place by limit / sqrt(squares), where that is below 1."""
    norm = math.sqrt(squares)
    if norm > limit:
        for array in arrays:
            array *= array.dtype.type(limit / norm)


def named_views(flat: Any, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Consecutive views of `flat` (n,), with these names and shapes."""
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


def cross_layers_of(named: Mapping[str, np.ndarray]) -> list[CrossLayer]:
    """The (v, u, bias) of each layer of the cross network, in order; none without one."""
    count = sum(name.startswith("cross.") for name in named) // 3
    parts = [[named[f"cross.{i}.{part}"] for part in ("v", "u", "bias")] for i in range(count)]
    return [(v, u, bias) for v, u, bias in parts]
