"""Dot products of all pairs of a row's vectors, and their gradient.

The vectors of a row lie in scratch of a padded shape: `padded(count)` rows, of which those beyond
the count are zeros, and a width of a multiple of 16 elements, likewise. So the inner loops always
work on whole tiles of three vectors, whose sums stay in registers.
"""

import numpy as np
from numba import prange

from robe_numba._jit import inlined, inner, jit
from robe_numba.kernels.cpu.blocks import copy_block, prefetch_block
from robe_numba.kernels.cpu.lookup import copy_row_signed, copy_rows
from robe_numba.kernels.cpu.simd.reductions import sums_of
from robe_numba.kernels.cpu.simd.types import load_x16, multiply_add, splat, store, zero_like
from robe_numba.kernels.cpu.starts import rows_starts, share
from robe_numba.kernels.scalar.hashing import row_key
from robe_numba.kernels.scalar.unsigned import ONE, TWO, U16, ZERO

TILE = np.uint64(3)  # vectors: nine sums and six operands fit the registers of most machines


def padded(count: int) -> int:
    """Rows of scratch for so many vectors."""
    return -(-count // int(TILE)) * int(TILE)


def padded_width(dim: int) -> int:
    """Elements of a row of scratch."""
    return -(-dim // 16) * 16


def products_size(count: int) -> int:
    """Elements of scratch for the products of so many vectors with each other."""
    return padded(count) * (padded(count) + 1)


@inlined
def dot_tile(vectors, width, i, j, products, stride):
    """products[i:i + 3, j:j + 4] = dot products of vectors i, i + 1, i + 2 with j, j + 1, j + 2.

    The fourth of each row is none; the next tile overwrites it, or nobody reads it.
    """
    i_1, i_2, j_1, j_2 = i + ONE, i + TWO, j + ONE, j + TWO
    zero = zero_like(load_x16(vectors, ZERO))
    t_00, t_01, t_02, t_10, t_11, t_12 = zero, zero, zero, zero, zero, zero
    t_20, t_21, t_22 = zero, zero, zero
    for c in range(ZERO, width, U16):
        left_0, left_1 = load_x16(vectors, i * width + c), load_x16(vectors, i_1 * width + c)
        left_2 = load_x16(vectors, i_2 * width + c)
        right = load_x16(vectors, j * width + c)
        t_00 = multiply_add(left_0, right, t_00)
        t_10 = multiply_add(left_1, right, t_10)
        t_20 = multiply_add(left_2, right, t_20)
        right = load_x16(vectors, j_1 * width + c)
        t_01 = multiply_add(left_0, right, t_01)
        t_11 = multiply_add(left_1, right, t_11)
        t_21 = multiply_add(left_2, right, t_21)
        right = load_x16(vectors, j_2 * width + c)
        t_02 = multiply_add(left_0, right, t_02)
        t_12 = multiply_add(left_1, right, t_12)
        t_22 = multiply_add(left_2, right, t_22)
    store(products, i * stride + j, sums_of(t_00, t_01, t_02, zero))
    store(products, i_1 * stride + j, sums_of(t_10, t_11, t_12, zero))
    store(products, i_2 * stride + j, sums_of(t_20, t_21, t_22, zero))


@inner
def dot_rows(vectors, width, i, count, products, out, o):
    """Three rows, from i on, of the strictly lower triangle of dot products from out[o] on."""
    stride = (count + TWO) // TILE * TILE + ONE
    for j in range(ZERO, i + ONE, TILE):
        dot_tile(vectors, width, i, j, products, stride)
    for row in range(i, min(i + TILE, count)):
        copy_block(out, o + row * (row - ONE) // TWO, products, row * stride, row)


@inner
def spread_pairs(grad_out, o, count, rows, weights):
    """weights (rows, rows) = the symmetric matrix whose lower triangle begins at grad_out[o]."""
    for i in range(count):
        weights[i * rows + i] = 0
        for j in range(i):
            weight = grad_out[o]
            weights[i * rows + j], weights[j * rows + i] = weight, weight
            o += ONE


@inlined
def combine_tile(weights, rows, i, vectors, width, c, count, grads):
    """grads[i:i + 3, c:c + 16] += the weighted sums of all vectors."""
    i_1, i_2 = i + ONE, i + TWO
    t_0, t_1 = load_x16(grads, i * width + c), load_x16(grads, i_1 * width + c)
    t_2 = load_x16(grads, i_2 * width + c)
    for j in range(count):
        vector = load_x16(vectors, j * width + c)
        t_0 = multiply_add(splat(weights[i * rows + j]), vector, t_0)
        t_1 = multiply_add(splat(weights[i_1 * rows + j]), vector, t_1)
        t_2 = multiply_add(splat(weights[i_2 * rows + j]), vector, t_2)
    store(grads, i * width + c, t_0)
    store(grads, i_1 * width + c, t_1)
    store(grads, i_2 * width + c, t_2)


@inner
def combine_pairs(weights, rows, vectors, width, count, grads):
    """grads (rows, width) += weights @ vectors."""
    for c in range(ZERO, width, U16):
        for i in range(ZERO, count, TILE):
            combine_tile(weights, rows, i, vectors, width, c, count, grads)


@jit
def dot_forward(dense, embeddings, vectors, products, out):
    """One thread owns all rows: out (batch, d + pairs); scratch of one row, `vectors` zeroed."""
    batch, num_tables, dim = embeddings.shape
    width, columns = np.uint64(vectors.shape[1]), np.uint64(out.shape[1])
    flat_dense, flat, flat_out = dense.reshape(-1), embeddings.reshape(-1), out.reshape(-1)
    _dot_forward(
        flat_dense,
        flat,
        np.uint64(batch),
        np.uint64(num_tables),
        np.uint64(dim),
        vectors.reshape(-1),
        width,
        products,
        flat_out,
        columns,
    )


@inner
def _dot_forward(dense, embeddings, batch, num_tables, dim, vectors, width, products, out, columns):
    count = num_tables + ONE
    for b in range(batch):
        copy_block(vectors, ZERO, dense, b * dim, dim)
        for t in range(num_tables):
            copy_block(vectors, (t + ONE) * width, embeddings, (b * num_tables + t) * dim, dim)
        copy_block(out, b * columns, dense, b * dim, dim)
        for i in range(ZERO, count, TILE):
            dot_rows(vectors, width, i, count, products, out, b * columns + dim)


@jit
def dot_backward(dense, embeddings, grad_out, vectors, grads, weights, grad_dense, grad_embeddings):
    """One thread owns all rows; `vectors`, `grads` and `weights` are zeroed scratch of one row."""
    batch, num_tables, dim = embeddings.shape
    _dot_backward(
        dense.reshape(-1),
        embeddings.reshape(-1),
        grad_out.reshape(-1),
        (np.uint64(batch), np.uint64(num_tables), np.uint64(dim), np.uint64(grad_out.shape[1])),
        vectors.reshape(-1),
        np.uint64(vectors.shape[1]),
        grads.reshape(-1),
        weights.reshape(-1),
        np.uint64(weights.shape[1]),
        grad_dense.reshape(-1),
        grad_embeddings.reshape(-1),
    )


@inner
def _dot_backward(
    dense,
    embeddings,
    grad_out,
    shape,
    vectors,
    width,
    grads,
    weights,
    rows,
    grad_dense,
    grad_embeddings,
):
    batch, num_tables, dim, columns = shape
    count = num_tables + ONE
    for b in range(batch):
        copy_block(vectors, ZERO, dense, b * dim, dim)
        for t in range(num_tables):
            copy_block(vectors, (t + ONE) * width, embeddings, (b * num_tables + t) * dim, dim)
        for i in range(width, count * width):
            grads[i] = 0
        copy_block(grads, ZERO, grad_out, b * columns, dim)
        spread_pairs(grad_out, b * columns + dim, count, rows, weights)
        combine_pairs(weights, rows, vectors, width, count, grads)
        copy_block(grad_dense, b * dim, grads, ZERO, dim)
        for t in range(num_tables):
            o = (b * num_tables + t) * dim
            copy_block(grad_embeddings, o, grads, (t + ONE) * width, dim)


@inlined
def gather_row(array, key, table, spec, starts, entry, vectors, o):
    """Read one row into scratch."""
    if spec.sign:
        copy_row_signed(array, key, table, spec, starts, entry, vectors, o)
    else:
        copy_rows(array, ONE, spec, starts, entry, entry, ZERO, vectors, o, False)


@inlined
def prefetch_rows(array, first, last, spec, starts, entry):
    """Ask for rows [first, last) of a sample whose starts begin at `entry`."""
    length = min(spec.block_size, spec.embedding_dim)
    for place in range(entry + first * spec.num_blocks, entry + last * spec.num_blocks):
        prefetch_block(array, starts[place], length)


@inner
def gather_dot(
    array, indices, dense, first, last, spec, starts, entry, keep, vectors, width, products, out
):
    """Samples [first, last): read their rows into scratch and multiply them there.

    Starts go to `entry` and on: of two samples, or of all if `keep`. The rows of the next sample
    are prefetched between the products of this one, not all at once: memory then is never idle.
    """
    tables, dim = spec.num_tables, spec.embedding_dim
    size = tables * spec.num_blocks
    columns = dim + tables * (tables + ONE) // TWO
    after = entry + size
    if first < last:
        rows_starts(indices, first * tables, (first + ONE) * tables, spec, starts, entry)
    for b in range(first, last):
        ahead = tables if b + ONE < last else ZERO
        rows_starts(indices, (b + ONE) * tables, (b + ONE) * tables + ahead, spec, starts, after)
        copy_block(vectors, ZERO, dense, b * dim, dim)
        for t in range(tables):
            key, place = row_key(indices[b * tables + t], spec), entry + t * spec.num_blocks
            gather_row(array, key, t, spec, starts, place, vectors, (t + ONE) * width)
        copy_block(out, b * columns, dense, b * dim, dim)
        for i in range(ZERO, tables + ONE, TILE):
            prefetch_rows(array, min(i, ahead), min(i + TILE, ahead), spec, starts, after)
            dot_rows(vectors, width, i, tables + ONE, products, out, b * columns + dim)
        entry, after = after, after + size if keep else entry


@jit(parallel=True)
def lookup_dot(
    array, indices, dense, spec, starts, keep, vectors, width, products, out, num_workers
):
    """out (batch * columns,) of indices (n,) and dense (batch * d,); an iteration owns samples.

    starts are (n * num_blocks,) if they are kept, else scratch for two samples per worker;
    vectors (num_workers, padded rows * width) and products (num_workers, size) are scratch.
    """
    batch = np.uint64(indices.size) // spec.num_tables
    for worker in prange(num_workers):
        scratch = vectors[worker]
        scratch[:] = 0
        first, last = share(batch, worker, num_workers)
        entry = (first if keep else np.uint64(2 * worker)) * spec.num_tables * spec.num_blocks
        rows = (scratch, width, products[worker])
        gather_dot(array, indices, dense, first, last, spec, starts, entry, keep, *rows, out)
