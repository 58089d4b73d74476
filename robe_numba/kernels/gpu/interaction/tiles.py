"""A sample's vectors in shared memory, and the products of tiles of them.

Four vectors make a tile of the products. Four unused elements follow each tile, so that lanes that
read the same columns of neighbouring tiles use different banks. Zeros fill the columns up to a
multiple of four, and the last tile.
"""

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from robe_numba.kernels.gpu.arrays import DeviceArray
from robe_numba.kernels.gpu.compiler import SIMULATED, function
from robe_numba.kernels.gpu.lookup import start_vectors
from robe_numba.kernels.scalar.unsigned import ONE, THREE, TWO, U4, ZERO

SHARED_BYTES = 47 << 10  # every GPU gives a thread block 48 KiB; the last one is for signs
ALIGNMENT = None if SIMULATED else 16  # of shared memory, bytes
word = np.uint32  # for positions in shared memory
FOUR = 4  # vectors of a tile


class InteractionShape(NamedTuple):
    """The shape of the interaction, and how a thread block goes through it."""

    num_vectors: np.uint64
    dim: np.uint64
    width: np.uint64  # columns in shared memory at a time, a multiple of four
    lane_bits: np.uint64  # 1 << lane_bits threads copy a vector


@cache
def shape_of(num_vectors: int, dim: int, width: int, four: bool) -> InteractionShape:
    """The shape, if threads copy four elements at a time or one."""
    lanes = min(-(-min(dim, width) // (4 if four else 1)), 32)
    sizes = num_vectors, dim, width, max(lanes - 1, 0).bit_length()
    return InteractionShape(*(np.uint64(size) for size in sizes))


def in_fours(dim: int, *arrays: DeviceArray) -> bool:
    """Whether rows of d elements consist of aligned vectors of four."""
    return dim % 4 == 0 and start_vectors(*arrays)


def tiles(num_vectors: int) -> int:
    """Tiles that hold the vectors."""
    return -(-num_vectors // FOUR)


def elements(num_vectors: int, width: int) -> int:
    """Elements of shared memory for `width` columns of all vectors."""
    return tiles(num_vectors) * FOUR * (width + 1)


def columns_at_once(num_vectors: int, dim: int, itemsize: int, others: int = 0) -> int:
    """Columns of a sample's vectors that fit shared memory, a multiple of four, if each vector has
    `others` elements beside them.

    Raises
    ------
    ValueError
        Where not even four fit.
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
    """Pairs before the first one of a vector: each vector is paired with those before it."""
    return (vector * (vector - ONE)) >> ONE


@function
def store_x1(vectors, i, value):
    """vectors[i] = value."""
    vectors[i] = value


class CopyFunctions(NamedTuple):
    """The functions that copy vectors into shared memory.

    Kernels make one of functions that modules define. They close over numbers only, since Numba's
    cache on disk would not recognize a function.
    """

    locate: Any  # locate(source, column): what `read` needs of a column, for all vectors
    read: Any  # read(source, words, sample, vector, located, shape, real, functions), vector >= 1
    columns: Any  # columns(n): columns of n copies, of four elements each or of one
    load: Any  # reads the elements of a copy
    keep: Any  # puts them into shared memory
    apply: Any  # applies their signs, if `read` does so; else None


@function
def by_four(n):
    """`CopyFunctions.columns`."""
    return U4 * n


@function
def by_one(n):
    """`CopyFunctions.columns`."""
    return n


@function
def locate_given(source, column):
    """`CopyFunctions.locate` of embeddings (batch * num_tables * d,)."""
    return column


@function
def read_given(source, words, sample, vector, column, shape, real, functions):
    """`CopyFunctions.read` of embeddings (batch * num_tables * d,)."""
    row = sample * (shape.num_vectors - ONE) + vector - ONE
    return functions.load(source, row * shape.dim + column, real)


@function
def read_next(source, words, sample, vector, slots, located, shape, real, functions):
    """Read four vectors, `slots` apart, or the last one in place of those that do not exist.

    There are no branches, so that the reads are in flight together.
    """
    read, last = functions.read, shape.num_vectors - ONE
    v_1, v_2, v_3 = vector + slots, vector + TWO * slots, vector + THREE * slots
    return (
        read(source, words, sample, min(vector, last), located, shape, real, functions),
        read(source, words, sample, min(v_1, last), located, shape, real, functions),
        read(source, words, sample, min(v_2, last), located, shape, real, functions),
        read(source, words, sample, min(v_3, last), located, shape, real, functions),
    )


@function
def keep_next(vectors, values, vector, slots, column, shape, functions):
    """Keep what `read_next` read, but for vectors that do not exist."""
    keep, width = functions.keep, shape.width
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
def copy(source, words, dense, sample, first, shape, vectors, thread, threads, functions):
    """Copy columns [first, first + width) of a sample's vectors into shared memory.

    Some threads share a vector, and each has four vectors in flight. `words` are also in shared
    memory, and only `functions.read` uses them.
    """
    real, end = dense.dtype.type, min(shape.width, shape.dim - first)
    load, keep, locate = functions.load, functions.keep, functions.locate
    lanes = ONE << shape.lane_bits
    slot, slots = thread >> shape.lane_bits, threads >> shape.lane_bits
    column = functions.columns(thread & (lanes - ONE))
    while column < end:
        features = load(dense, sample * shape.dim + first + column, real)
        vector, located = slot + ONE, locate(source, first + column)
        while vector < shape.num_vectors:
            values = read_next(
                source, words, sample, vector, slots, located, shape, real, functions
            )
            keep_next(vectors, values, vector, slots, column, shape, functions)
            vector += U4 * slots
        if slot == ZERO:
            keep(vectors, column, features)
        column += functions.columns(lanes)
    if functions.columns(ONE) == ONE:
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
