"""Layers for scoring alone: weights are copied once into the order in which they are read."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from robe_numba.checks.arrays import check_array
from robe_numba.dlrm.layers.cross import CrossLayer
from robe_numba.dlrm.layers.linear import GradPair
from robe_numba.kernels.cpu.launch import launch, threads_for
from robe_numba.kernels.cpu.layers import add_cross
from robe_numba.kernels.cpu.mlp import CHUNK, TILE, WIDE, PackedLayers, mlp
from robe_numba.kernels.cpu.simd.tiles import LANES
from robe_numba.memory import aligned_empty, scratch

FLOAT32 = np.dtype(np.float32)


class PackedMLP:
    """Affine layers with ReLU between them, and after the last one if `final_relu`.

    The output of a row has the same bits whatever rows are beside it, for any number of threads.

    Parameters
    ----------
    layers : sequence of (weight, bias)
        As `mlp` takes them, float32; they are copied.
    final_relu : bool
        Whether the last layer is rectified as well.

    Attributes
    ----------
    fan_in, fan_out : int
        Width of the input and of the output.
    layers : PackedLayers
        The parameters as kernels read them.
    """

    def __init__(self, layers: Sequence[GradPair], *, final_relu: bool):
        self._final_relu = final_relu
        self.fan_in, self.fan_out = layers[0][0].shape[1], layers[-1][0].shape[0]
        shapes, weights, biases = [], [], []
        for weight, bias in layers:
            fan_out, fan_in = check_array("weight", weight, None, (FLOAT32,)).shape
            # Without inputs a layer has one that is 0: kernels read at least one.
            padded = np.zeros((-(-fan_out // LANES) * LANES, max(fan_in, 1)), np.float32)
            padded[:fan_out, :fan_in] = weight
            shapes.append((padded.shape[1], padded.shape[0]))
            weights += _panels(padded)
            biases.append(np.pad(bias, (0, len(padded) - fan_out)))
        self.layers = PackedLayers(np.array(shapes, np.uint64), _joined(weights), _joined(biases))
        self._half = int(CHUNK) * max(width for _, width in shapes)

    def input(self, rows: int) -> np.ndarray:
        """Memory for the input of a call, to be filled up to `rows`.

        Returns
        -------
        ndarray, (rows rounded up to whole tiles, max(fan_in, 1)) float32
            Zeros from `rows` on, and where there are no inputs.
        """
        depth, tile = int(self.layers.shapes[0, 0]), int(TILE)
        x = scratch(f"mlp_input_{depth}", (-(-rows // tile) * tile, depth), np.float32)
        x[0 if self.fan_in == 0 else rows :] = 0
        return x

    def __call__(self, x: np.ndarray, out: np.ndarray, threads: int) -> None:
        """Compute the output of some rows.

        Parameters
        ----------
        x : ndarray
            From `input`, filled.
        out : ndarray, (rows, fan_out) float32
            Receives the result.
        threads : int
            At most.
        """
        rows, layers = len(out), self.layers
        workers = min(threads, threads_for(rows * elements_worth(layers)))
        buffers = scratch("mlp", (workers, 2 * self._half), np.float32)
        numbers = scratch("mlp_numbers", (workers, int(layers.shapes[:, 0].max())), np.uint64)
        flat = x.reshape(-1)
        launch(workers, mlp, flat, np.uint64(rows), layers, self._final_relu, buffers, numbers, out)


class PackedCross:
    """The layers of a cross network.

    As in `PackedMLP`, the output of a row does not depend on the other rows or on threads.

    Parameters
    ----------
    layers : sequence of (v, u, bias)
        As `cross_network` takes them, float32; they are copied. Without any, nothing is computed.
    """

    def __init__(self, layers: Sequence[CrossLayer]):
        def packed(weight: np.ndarray) -> PackedMLP:
            return PackedMLP([(weight, np.zeros(len(weight), np.float32))], final_relu=False)

        self._layers = [(packed(v), packed(u), bias.copy()) for v, u, bias in layers]

    def __call__(self, x: np.ndarray, threads: int) -> None:
        """Replace x (rows, n) float32 with the output; `threads` is the most to use."""
        first = scratch("cross_first", x.shape, np.float32)
        first[...] = x
        product = scratch("cross_product", x.shape, np.float32)
        for down, up, bias in self._layers:
            before, hidden = down.input(len(x)), up.input(len(x))
            before[: len(x)] = x
            down(before, hidden[: len(x)], threads)
            up(hidden, product, threads)
            add_cross(first, product, bias, x, x)


def elements_worth(layers: PackedLayers) -> int:
    """The work of a row, in elements that are copied in the same time; see `threads_for`."""
    return layers.weights.size // 64


def _panels(weight: np.ndarray) -> list[np.ndarray]:
    """Panels (fan_in, columns) of padded weights (fan_out, fan_in), flat."""
    wide = len(weight) // int(WIDE) * int(WIDE)
    cuts = [*range(0, wide, int(WIDE)), *range(wide, len(weight), LANES), len(weight)]
    return [weight[a:b].T.reshape(-1) for a, b in pairwise(cuts)]


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    """One array of all parts, which begins a cache line."""
    joined = aligned_empty((sum(part.size for part in parts),), FLOAT32)
    return np.concatenate(parts, out=joined)
