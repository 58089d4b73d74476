"""A stack of affine layers with a rectifier between them, whose weights lie as they are read.

A row's result does not depend on the rows beside it. Rows are computed in chunks whose outputs stay
in the second-level cache while they pass through all layers.
"""

import math
from typing import NamedTuple

import numpy as np
from numba import prange

from robe_numba._jit import inlined, inner, jit
from robe_numba.kernels.cpu.simd.tiles import (
    LANES,
    TILE_ROWS,
    TILE_VECTORS,
    multiply_narrow,
    multiply_row_narrow,
    multiply_row_wide,
    multiply_wide,
    rectified,
)
from robe_numba.kernels.cpu.simd.types import load_x16, store
from robe_numba.kernels.cpu.starts import share
from robe_numba.kernels.scalar.unsigned import ONE, U16, ZERO

TILE = np.uint64(TILE_ROWS)
WIDE = np.uint64(LANES * TILE_VECTORS)  # columns of a wide panel
CHUNK = np.uint64(16 * TILE_ROWS)  # rows


class PackedLayers(NamedTuple):
    """The parameters of an MLP as `mlp` reads them; flat arrays, layer after layer.

    Columns are padded to a multiple of 16. The weights of a layer are panels of columns, each
    (fan_in, columns): as many wide ones as fit, then panels of 16 columns.
    """

    shapes: np.ndarray  # uint64 (num_layers, 2): fan_in, padded fan_out
    weights: np.ndarray  # float32
    biases: np.ndarray  # float32, padded


@inlined
def panel_product(x, x_place, rows, w, w_first, depth, y, y_place, wide):
    """A panel of columns of y = x @ w, for one row, or for rows that are padded to whole tiles.

    Places are where the rows of a matrix begin in its flat array, and how far apart they are.
    """
    if rows == ONE:
        if wide:
            multiply_row_wide(x, x_place, w, w_first, depth, y, y_place)
        else:
            multiply_row_narrow(x, x_place, w, w_first, depth, y, y_place)
        return
    for row in range(ZERO, rows, TILE):
        x_tile = (x_place[0] + row * x_place[1], x_place[1])
        y_tile = (y_place[0] + row * y_place[1], y_place[1])
        if wide:
            multiply_wide(x, x_tile, w, w_first, depth, y, y_tile)
        else:
            multiply_narrow(x, x_tile, w, w_first, depth, y, y_tile)


@inlined
def finish_rows(y, first, rows, width, biases, b_first, rectify):
    """Add the biases to rows of y, and rectify them if asked for."""
    for row in range(rows):
        place = first + row * width
        for column in range(ZERO, width, U16):
            value = load_x16(y, place + column) + load_x16(biases, b_first + column)
            store(y, place + column, rectified(value) if rectify else value)


@inner
def layer(x, x_place, rows, layers, w_first, b_first, number, rectify, y, y_first):
    """Rows of y (rows, padded fan_out), from y_first on, of one layer."""
    depth, width = layers.shapes[number, 0], layers.shapes[number, 1]
    column = ZERO
    while column < width:
        wide = column + WIDE <= width
        place = (y_first + column, width)
        panel = w_first + column * depth
        panel_product(x, x_place, rows, layers.weights, panel, depth, y, place, wide)
        column += WIDE if wide else U16
    finish_rows(y, y_first, rows, width, layers.biases, b_first, rectify)


@inner
def mlp_rows(x, row, rows, layers, final_relu, buffers, first, half):
    """Put rows [row, row + rows) of x through all layers; where the output begins in `buffers`.

    The outputs of layers alternate between two buffers of `half` elements, from `first` on.
    """
    count, w_first, b_first = np.uint64(layers.shapes.shape[0]), ZERO, ZERO
    depth = layers.shapes[0, 0]
    layer(
        x,
        (row * depth, depth),
        rows,
        layers,
        w_first,
        b_first,
        ZERO,
        final_relu or count > ONE,
        buffers,
        first,
    )
    given, taken = first, first + half
    for number in range(ONE, count):
        width = layers.shapes[number - ONE, 1]
        w_first += layers.shapes[number - ONE, 0] * width
        b_first += width
        rectify = final_relu or number + ONE < count
        place = (given, width)
        layer(buffers, place, rows, layers, w_first, b_first, number, rectify, buffers, taken)
        given, taken = taken, given
    return given


@jit(parallel=True)
def mlp(x, rows, layers, final_relu, buffers, half, out):
    """out (rows, fan_out) of x, flat with its rows padded to whole tiles.

    Each worker has 2 * half elements of the buffers; an iteration owns a worker's rows.
    """
    num_workers, fan_out = np.uint64(buffers.size) // (half + half), np.uint64(out.shape[1])
    width = layers.shapes[layers.shapes.shape[0] - 1, 1]
    tiles = (np.uint64(rows) + TILE - ONE) // TILE
    for worker in prange(num_workers):
        begin, end = share(tiles, worker, num_workers)
        last = min(end * TILE, np.uint64(rows))
        base = np.uint64(worker) * (half + half)
        for row in range(begin * TILE, last, CHUNK):
            count = min(CHUNK, last - row)
            place = mlp_rows(x, row, count, layers, final_relu, buffers, base, half)
            for r in range(count):
                for column in range(fan_out):
                    out[row + r, column] = buffers[place + r * width + column]


@jit
def sigmoids(logits, out):
    """out (n,) = 1 / (1 + exp(-logits)), without overflow."""
    for i in range(logits.size):
        small = np.float32(math.exp(-abs(logits[i])))
        out[i] = (np.float32(1) if logits[i] >= 0 else small) / (np.float32(1) + small)
