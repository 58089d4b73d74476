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
def choose_nonzero(x, first, depth, chosen):
    """Write the numbers of a row's elements that are not 0; how many, at least one."""
    count = ZERO
    for k in range(depth):
        chosen[count] = k
        count += np.uint64(x[first + k] != 0)
    return max(count, ONE)


@inner
def row_product(x, x_first, layers, w_first, number, chosen, y, y_first):
    """One row of y = x @ w, without products with 0: about half of those after a rectifier."""
    w, depth, width = layers.weights, layers.shapes[number, 0], layers.shapes[number, 1]
    count = choose_nonzero(x, x_first, depth, chosen)
    column = ZERO
    while column < width:
        panel, place = (w, w_first + column * depth), (y, y_first + column, width)
        if column + WIDE <= width:
            multiply_row_wide((x, x_first, depth), panel, count, chosen, place)
            column += WIDE
        else:
            multiply_row_narrow((x, x_first, depth), panel, count, chosen, place)
            column += U16


@inner
def tile_products(x, x_first, stride, rows, layers, w_first, number, y, y_first):
    """Rows of y = x @ w, padded to whole tiles; the rows of x are `stride` apart."""
    w, depth, width = layers.weights, layers.shapes[number, 0], layers.shapes[number, 1]
    column = ZERO
    while column < width:
        wide = column + WIDE <= width
        panel = (w, w_first + column * depth)
        for row in range(ZERO, rows, TILE):
            tile = (x, x_first + row * stride, stride)
            place = (y, y_first + row * width + column, width)
            if wide:
                multiply_wide(tile, panel, depth, None, place)
            else:
                multiply_narrow(tile, panel, depth, None, place)
        column += WIDE if wide else U16


@inner
def finish_rows(y, first, rows, width, biases, b_first, rectify):
    """Add the biases to rows of y, and rectify them if asked for."""
    for row in range(rows):
        place = first + row * width
        for column in range(ZERO, width, U16):
            value = load_x16(y, place + column) + load_x16(biases, b_first + column)
            store(y, place + column, rectified(value) if rectify else value)


@inner
def mlp_rows(x, row, rows, layers, final_relu, buffers, first, half, chosen):
    """Put rows [row, row + rows) of x through all layers; where the output begins in `buffers`.

    The outputs of layers alternate between two buffers of `half` elements, from `first` on.
    """
    num_layers, w_first, b_first = np.uint64(layers.shapes.shape[0]), ZERO, ZERO
    taken, other = first, first + half
    given, stride = row * layers.shapes[0, 0], layers.shapes[0, 0]
    for number in range(num_layers):
        depth, width = layers.shapes[number, 0], layers.shapes[number, 1]
        source = x if number == ZERO else buffers
        if rows == ONE:
            row_product(source, given, layers, w_first, number, chosen, buffers, taken)
        else:
            tile_products(source, given, stride, rows, layers, w_first, number, buffers, taken)
        rectify = final_relu or number + ONE < num_layers
        finish_rows(buffers, taken, rows, width, layers.biases, b_first, rectify)
        w_first, b_first = w_first + depth * width, b_first + width
        given, stride, taken, other = taken, width, other, taken
    return given


@jit(parallel=True)
def mlp(x, rows, layers, final_relu, buffers, numbers, out):
    """out (rows, fan_out) of x, flat, whose rows are padded to whole tiles.

    An iteration owns a worker's rows, and its row of the buffers and of the numbers, which are
    scratch.
    """
    num_workers, fan_out = buffers.shape[0], np.uint64(out.shape[1])
    half, width = np.uint64(buffers.shape[1]) >> ONE, layers.shapes[-1, 1]
    tiles = (np.uint64(rows) + TILE - ONE) // TILE
    for worker in prange(num_workers):
        begin, end = share(tiles, worker, num_workers)
        last, own = min(end * TILE, np.uint64(rows)), buffers[worker]
        for row in range(begin * TILE, last, CHUNK):
            count = min(CHUNK, last - row)
            place = mlp_rows(x, row, count, layers, final_relu, own, ZERO, half, numbers[worker])
            for r in range(count):
                for column in range(fan_out):
                    out[row + r, column] = own[place + r * width + column]


@inlined
def sigmoid(logit):
    """1 / (1 + exp(-logit)) in float32, without overflow."""
    one, small = np.float32(1), np.float32(math.exp(-abs(logit)))
    return (one if logit >= 0 else small) / (one + small)


@jit
def sigmoids(logits, out):
    """out (n,) = the sigmoid of logits (n,)."""
    for i in range(logits.size):
        out[i] = sigmoid(logits[i])
