"""A sample's vectors in shared memory, and the products of tiles of them.

Vectors are kept by fours, which are the tiles of the products. After each tile four elements are
left out, so that lanes that read the same columns of neighbouring tiles use different banks. The
columns are made a multiple of four and the vectors fill the last tile, both with zeros.
"""

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from robe_numba.kernels.gpu.arrays import DeviceArray
from robe_numba.kernels.gpu.compiler import SIMULATED, function
from robe_numba.kernels.scalar.unsigned import ONE, THREE, TWO, U4, ZERO

SHARED_BYTES = 47 << 10  # every GPU gives a thread block 48 KiB; the last is for signs
ALIGNMENT = None if SIMULATED else 16  # of what is there, bytes
word = np.uint32  # of what counts in shared memory
FOUR = 4  # vectors of a tile


class Shape(NamedTuple):
    """Shape of the interaction, and how a thread block goes through it."""

    num_vectors: np.uint64
    dim: np.uint64
    width: np.uint64  # columns in shared memory at a time, a multiple of four
    lane_bits: np.uint64  # 1 << lane_bits threads copy a vector


@cache
def shape_of(num_vectors: int, dim: int, width: int, four: bool) -> Shape:
    """The shape, where threads copy four elements at a time or one."""
    lanes = min(-(-min(dim, width) // (4 if four else 1)), 32)
    sizes = num_vectors, dim, width, max(lanes - 1, 0).bit_length()
    return Shape(*(np.uint64(size) for size in sizes))


def in_fours(dim: int, *arrays: DeviceArray) -> bool:
    """Whether rows of d elements consist of four neighbours that are aligned together."""
    return dim % 4 == 0 and all(a.pointer % (4 * a.dtype.itemsize) == 0 for a in arrays)


def tiles(num_vectors: int) -> int:
    """How many tiles hold the vectors."""
    return -(-num_vectors // FOUR)


def elements(num_vectors: int, width: int) -> int:
    """Elements of shared memory that `width` columns of all vectors take."""
    return tiles(num_vectors) * FOUR * (width + 1)


def columns_at_once(num_vectors: int, dim: int, itemsize: int, others: int = 0) -> int:
    """How many columns of a sample's vectors fit shared memory, a multiple of four, where each
    vector has `others` elements beside them.

    Raises
    ------
    ValueError : not even four fit.
    """
    most = SHARED_BYTES // (tiles(num_vectors) * FOUR * itemsize) - 1 - others
    if most < FOUR:
        fit = SHARED_BYTES // (FOUR * (FOUR + 1 + others) * itemsize) * FOUR
        raise ValueError(
            f"num_tables is {num_vectors - 1}; on a GPU the interaction takes at most {fit - 1}: "
            "use lookup and matrix products"
        )
    return min(max(dim, 1) + 3, most) // FOUR * FOUR


@function
def row_place(vector, width):
    """Where a vector begins in shared memory."""
    return (vector >> TWO) * (U4 * width + U4) + (vector & THREE) * width


@function
def pairs_below(vector):
    """How many pairs come before those of a vector with the vectors before it."""
    return (vector * (vector - ONE)) >> ONE


@function
def keep1(vectors, i, value):
    """vectors[i] = value."""
    vectors[i] = value


class Way(NamedTuple):
    """How vectors are copied: functions.

    Kernels make one of functions that modules define: what they close over must be numbers, since
    Numba's cache on disk would not know a function again.
    """

    locate: Any  # locate(source, column), what `read` must know of a column, for all vectors
    read: Any  # read(source, words, sample, vector, located, shape, real, way), of vectors from 1
    columns: Any  # columns(n), of n copies: each is of four elements, or of one
    load: Any  # reads what is copied at a time
    keep: Any  # puts that into shared memory
    apply: Any  # gives it its signs, where `read` does so; else None


@function
def by_four(n):
    """`Way.columns`."""
    return U4 * n


@function
def by_one(n):
    """`Way.columns`."""
    return n


@function
def locate_given(source, column):
    """`Way.locate` of embeddings (batch * num_tables * d,)."""
    return column


@function
def read_given(source, words, sample, vector, column, shape, real, way):
    """`Way.read` of embeddings (batch * num_tables * d,)."""
    row = sample * (shape.num_vectors - ONE) + vector - ONE
    return way.load(source, row * shape.dim + column, real)


@function
def read_next(source, words, sample, vector, slots, located, shape, real, way):
    """Every `slots`-th of four vectors; the last again where there is none, without branches,
    which would keep the reads apart.
    """
    read, last = way.read, shape.num_vectors - ONE
    v_1, v_2, v_3 = vector + slots, vector + TWO * slots, vector + THREE * slots
    return (
        read(source, words, sample, min(vector, last), located, shape, real, way),
        read(source, words, sample, min(v_1, last), located, shape, real, way),
        read(source, words, sample, min(v_2, last), located, shape, real, way),
        read(source, words, sample, min(v_3, last), located, shape, real, way),
    )


@function
def keep_next(vectors, values, vector, slots, column, shape, way):
    """Keep what `read_next` read, each vector once."""
    keep, width = way.keep, shape.width
    v_1, v_2, v_3 = vector + slots, vector + TWO * slots, vector + THREE * slots
    if vector < shape.num_vectors:
        keep(vectors, row_place(vector, width) + column, values[0])
    if v_1 < shape.num_vectors:
        keep(vectors, row_place(v_1, width) + column, values[1])
    if v_2 < shape.num_vectors:
        keep(vectors, row_place(v_2, width) + column, values[2])
    if v_3 < shape.num_vectors:
        keep(vectors, row_place(v_3, width) + column, values[3])


@function
def copy(source, words, dense, sample, first, shape, vectors, thread, threads, way):
    """Copy columns [first, first + width) of a sample's vectors into shared memory: some threads
    share a vector, and each has four of them under way. `words` are in shared memory, too, and for
    `way.read` alone.
    """
    real, end = dense.dtype.type, min(shape.width, shape.dim - first)
    load, keep, locate = way.load, way.keep, way.locate
    lanes = ONE << shape.lane_bits
    slot, slots = thread >> shape.lane_bits, threads >> shape.lane_bits
    column = way.columns(thread & (lanes - ONE))
    while column < end:
        features = load(dense, sample * shape.dim + first + column, real)
        vector, located = slot + ONE, locate(source, first + column)
        while vector < shape.num_vectors:
            values = read_next(source, words, sample, vector, slots, located, shape, real, way)
            keep_next(vectors, values, vector, slots, column, shape, way)
            vector += U4 * slots
        if slot == ZERO:
            keep(vectors, column, features)
        column += way.columns(lanes)
    if way.columns(ONE) == ONE:
        clear_columns(end, shape, vectors, thread, threads)
    clear_vectors(shape, vectors, thread, threads)


@function
def clear_columns(count, shape, vectors, thread, threads):
    """Fill up to whole fours of columns with zeros."""
    vector = thread
    while vector < shape.num_vectors:
        column = count
        while column & THREE:
            vectors[row_place(vector, shape.width) + column] = 0
            column += ONE
        vector += threads


@function
def clear_vectors(shape, vectors, thread, threads):
    """Fill up to whole tiles with zeros."""
    i = row_place(shape.num_vectors, shape.width) + thread
    end = row_place((shape.num_vectors + THREE) & ~THREE, shape.width)
    while i < end:
        vectors[i] = 0
        i += threads
