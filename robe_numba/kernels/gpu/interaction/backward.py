"""Gradients of the dot interaction on the GPU: a thread block for each sample.

A sample's gradients are its vectors, multiplied by the symmetric matrix of the gradients of all
pairs. Both are copied into shared memory, the vectors as in `forward.py`. A thread then has four
columns of eight gradients in registers, so that it reads 12 elements for 32 products.
"""

from functools import cache

import numpy as np

from robe_numba.kernels.gpu.arrays import DeviceArray
from robe_numba.kernels.gpu.compiler import cuda, function, inlined
from robe_numba.kernels.gpu.context import DeviceContext
from robe_numba.kernels.gpu.interaction import tiles
from robe_numba.kernels.gpu.interaction.tiles import (
    ALIGNMENT,
    CopyFunctions,
    by_four,
    by_one,
    copy,
    locate_given,
    pairs_below,
    read_given,
    row_place,
    store_x1,
    word,
)
from robe_numba.kernels.gpu.intrinsics import load_x1, load_x4, store_x4, stream_x1, stream_x4
from robe_numba.kernels.gpu.launch import THREADS, Kernel
from robe_numba.kernels.scalar.unsigned import ONE, THREE, TWO, U4, U5, U6, U7, U8, U32, ZERO

BACKWARD_THREADS = min(THREADS, 128)
ROWS = 8  # gradients of a thread


@function
def weight(grad_out, o, a, b, shape):
    """The gradient of the pair of vectors a and b, in the sample's row from o on.

    It is 0 if a is b, or if one of them does not exist.
    """
    low, high = min(a, b), max(a, b)
    exists = low < high and high < shape.num_vectors
    # Without a branch, so that the reads are in flight together.
    place = shape.dim + pairs_below(high) + low if exists else ZERO
    value = load_x1(grad_out, o + place, grad_out.dtype.type)
    return value if exists else grad_out.dtype.type(0)


@function
def spread(grad_out, o, first, rows, shape, matrix, begin, thread, threads):
    """matrix[begin:] = columns [first, first + rows) of the symmetric matrix, with a row for each
    vector of each tile.
    """
    end = (shape.num_vectors + THREE) & ~THREE
    warps, lane = threads // U32, thread % U32
    a = thread // U32
    while a < end:
        b = lane
        while b < rows:
            w_0 = weight(grad_out, o, a, first + b, shape)
            w_1 = weight(grad_out, o, a + warps, first + b, shape)
            w_2 = weight(grad_out, o, a + TWO * warps, first + b, shape)
            w_3 = weight(grad_out, o, a + THREE * warps, first + b, shape)
            place = begin + a * rows + b
            matrix[place] = w_0
            if a + warps < end:
                matrix[place + warps * rows] = w_1
            if a + TWO * warps < end:
                matrix[place + TWO * warps * rows] = w_2
            if a + THREE * warps < end:
                matrix[place + THREE * warps * rows] = w_3
            b += U32
        a += U4 * warps


@function
def add_scaled(sums, w, x):
    """sums + w * x, for four columns."""
    return sums[0] + w * x[0], sums[1] + w * x[1], sums[2] + w * x[2], sums[3] + w * x[3]


@function
def add_vector(sums, vectors, x, w):
    """Add four columns of the vector at x, times its eight weights at w, to 8 x 4 sums."""
    real = vectors.dtype.type
    columns = load_x4(vectors, x, real)
    w_0, w_1, w_2, w_3 = load_x4(vectors, w, real)
    w_4, w_5, w_6, w_7 = load_x4(vectors, w + U4, real)
    return (
        add_scaled(sums[0], w_0, columns),
        add_scaled(sums[1], w_1, columns),
        add_scaled(sums[2], w_2, columns),
        add_scaled(sums[3], w_3, columns),
        add_scaled(sums[4], w_4, columns),
        add_scaled(sums[5], w_5, columns),
        add_scaled(sums[6], w_6, columns),
        add_scaled(sums[7], w_7, columns),
    )


@function
def weighted_sums(vectors, x, w, end, rows, width):
    """Four columns, from x on, of eight gradients, whose weights are from w to `end`."""
    zero = vectors.dtype.type(0)
    four = (zero, zero, zero, zero)
    sums = (four, four, four, four, four, four, four, four)
    x, w, end = word(x), word(w), word(end)
    width, tile, rows = word(width), word(U4 * width + U4), word(rows)
    while w < end:
        sums = add_vector(sums, vectors, x, w)
        sums = add_vector(sums, vectors, x + width, w + rows)
        sums = add_vector(sums, vectors, x + TWO * width, w + TWO * rows)
        sums = add_vector(sums, vectors, x + THREE * width, w + THREE * rows)
        x, w = word(x + tile), word(w + U4 * rows)
    return sums


@function
def put4(target, o, values, columns, four):
    """Write four neighbours to global memory, or only those within the columns unless `four`."""
    if four:
        stream_x4(target, o, values)
    else:
        stream_x1(target, o, values[0])
        if columns > ONE:
            stream_x1(target, o + ONE, values[1])
        if columns > TWO:
            stream_x1(target, o + TWO, values[2])
        if columns > THREE:
            stream_x1(target, o + THREE, values[3])


@function
def put_dense(grad_dense, sample, column, values, shape, grad_out, o, four):
    """Write four columns of the dense vector's gradient; the vector is also part of the output."""
    real, left = grad_out.dtype.type, shape.dim - column
    o += column
    passed = (
        load_x1(grad_out, o, real),
        load_x1(grad_out, o + min(ONE, left - ONE), real),
        load_x1(grad_out, o + min(TWO, left - ONE), real),
        load_x1(grad_out, o + min(THREE, left - ONE), real),
    )
    values = add_scaled(passed, real(1), values)
    put4(grad_dense, sample * shape.dim + column, values, left, four)


@function
def put(grad_embeddings, sample, vector, column, values, shape, four):
    """Write four columns of the gradient of a vector, from 1 on, if it exists."""
    if vector < shape.num_vectors:
        row = sample * (shape.num_vectors - ONE) + vector - ONE
        put4(grad_embeddings, row * shape.dim + column, values, shape.dim - column, four)


@inlined
def put_next(grad_embeddings, sample, vector, column, sums, shape, four):
    """Write four columns of the gradients of the seven vectors after one."""
    put(grad_embeddings, sample, vector + ONE, column, sums[1], shape, four)
    put(grad_embeddings, sample, vector + TWO, column, sums[2], shape, four)
    put(grad_embeddings, sample, vector + THREE, column, sums[3], shape, four)
    put(grad_embeddings, sample, vector + U4, column, sums[4], shape, four)
    put(grad_embeddings, sample, vector + U5, column, sums[5], shape, four)
    put(grad_embeddings, sample, vector + U6, column, sums[6], shape, four)
    put(grad_embeddings, sample, vector + U7, column, sums[7], shape, four)


@cache
def backward_kernel(four: bool) -> Kernel:
    """Make `dot_backward`, which reads and writes four elements at a time or one.

    It closes over numbers only, see `tiles.CopyFunctions`.
    """
    threads = np.uint64(BACKWARD_THREADS)

    def dot_backward(embeddings, dense, grad_out, shape, rows, grad_dense, grad_embeddings):
        """A thread block for a sample's gradients of dense (batch * d,) and embeddings
        (batch * num_tables * d,); `rows` of the matrix's columns at a time, a multiple of eight.
        """
        vectors = cuda.shared.array(0, grad_out.dtype, ALIGNMENT)
        sample, thread = np.uint64(cuda.blockIdx.x), np.uint64(cuda.threadIdx.x)
        num_vectors, dim, width = shape.num_vectors, shape.dim, shape.width
        o = sample * (dim + pairs_below(num_vectors))
        whole = (num_vectors + THREE) & ~THREE
        matrix = row_place(whole, width)
        lanes = ONE << shape.lane_bits
        slot, slots = thread >> shape.lane_bits, threads >> shape.lane_bits
        if four:
            functions = CopyFunctions(locate_given, read_given, by_four, load_x4, store_x4, None)
        else:
            functions = CopyFunctions(locate_given, read_given, by_one, load_x1, store_x1, None)
        first = ZERO
        while first < dim:
            cuda.syncthreads()
            copy(
                embeddings,
                embeddings,
                dense,
                sample,
                first,
                shape,
                vectors,
                thread,
                threads,
                functions,
            )
            end, low = min(first + width, dim), ZERO
            while low < num_vectors:
                cuda.syncthreads()
                spread(grad_out, o, low, rows, shape, vectors, matrix, thread, threads)
                cuda.syncthreads()
                b = U8 * slot
                while b < rows and low + b < num_vectors:
                    c = U4 * (thread & (lanes - ONE))
                    while first + c < end:
                        sums = weighted_sums(
                            vectors, c, matrix + b, matrix + whole * rows, rows, width
                        )
                        column, vector = first + c, low + b
                        if vector == ZERO:
                            put_dense(grad_dense, sample, column, sums[0], shape, grad_out, o, four)
                        else:
                            put(grad_embeddings, sample, vector, column, sums[0], shape, four)
                        put_next(grad_embeddings, sample, vector, column, sums, shape, four)
                        c += U4 * lanes
                    b += U8 * slots
                low += rows
            first += width

    return Kernel(dot_backward)


def dot_backward(
    context: DeviceContext,
    inputs: tuple[DeviceArray, DeviceArray, DeviceArray],
    shape: tuple[int, int, int],
    grads: tuple[DeviceArray, DeviceArray],
) -> None:
    """Fill the gradients of dense and embeddings, given both, grad_out, and the shape
    (batch, num_vectors, d).
    """
    dense, embeddings, grad_out = inputs
    batch, num_vectors, dim = shape
    itemsize = grad_out.dtype.itemsize
    fit = tiles.SHARED_BYTES // (2 * tiles.tiles(num_vectors) * 4 * itemsize)
    rows = min(-(-num_vectors // ROWS), max(fit // ROWS, 1)) * ROWS
    width = tiles.columns_at_once(num_vectors, dim, itemsize, others=rows)
    if dense.size == 0:
        return
    four = tiles.in_fours(dim, dense, embeddings, *grads)
    elements = tiles.elements(num_vectors, width) + tiles.tiles(num_vectors) * 4 * rows
    sizes = tiles.shape_of(num_vectors, dim, width, four), np.uint64(rows)
    arguments = (embeddings, dense, grad_out, *sizes, *grads)
    backward_kernel(four).launch(
        context, batch, BACKWARD_THREADS, *arguments, shared=elements * itemsize
    )
