"""Dot products of all pairs of a row's vectors, and their gradient.

The vectors of a row lie in scratch that is padded with zeros to `padded(count)` rows and to a width
of a multiple of 16 elements. So the inner loops always work on whole tiles of three vectors, whose
sums stay in registers.
"""

from typing import NamedTuple

import numpy as np
from numba import prange

from robe_numba._jit import inlined, inner, jit
from robe_numba.kernels.cpu.blocks import BlockSource, copy_block, prefetch_block
from robe_numba.kernels.cpu.lookup import Span, copy_row_signed, copy_rows
from robe_numba.kernels.cpu.simd.reductions import sums_of
from robe_numba.kernels.cpu.simd.types import load_x16, multiply_add, splat, store, zero_like
from robe_numba.kernels.cpu.starts import rows_starts, share
from robe_numba.kernels.scalar.hashing import row_key
from robe_numba.kernels.scalar.unsigned import ONE, TWO, U16, ZERO

TILE = np.uint64(3)  # vectors: nine sums and six operands fit the registers of most machines


class RowBuffers(NamedTuple):
    """Scratch for one row, or for one row of each worker."""

    vectors: np.ndarray  # (padded rows * width,), zeroed at first; or (num_workers, ...)
    width: np.uint64
    products: np.ndarray  # (size,); or (num_workers, ...)


def padded(count: int) -> int:
    """Rows of scratch for `count` vectors."""
    return -(-count // int(TILE)) * int(TILE)


def padded_width(dim: int) -> int:
    """Elements of a row of scratch."""
    return -(-dim // 16) * 16


def products_size(count: int) -> int:
    """Elements of scratch for the products of `count` vectors with each other."""
    return padded(count) * (padded(count) + 1)


@inlined
def dot_tile(vectors, width, i, j, products, stride):
    """products[i:i + 3, j:j + 4] = dot products of vectors i, i + 1, i + 2 with j, j + 1, j + 2.

    A fourth value of each row is written too, which the next tile overwrites or nothing reads.
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
def dot_rows(buffers, i, count, out, o):
    """Three rows, from i on, of the strictly lower triangle of dot products from out[o] on."""
    products, stride = buffers.products, (count + TWO) // TILE * TILE + ONE
    for j in range(ZERO, i + ONE, TILE):
        dot_tile(buffers.vectors, buffers.width, i, j, products, stride)
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


class DotShape(NamedTuple):
    """Of the inputs of an interaction, and the columns of its output."""

    batch: np.uint64
    num_tables: np.uint64
    dim: np.uint64
    columns: np.uint64


@inlined
def shape_of(embeddings, columns):
    """The shape of an interaction of embeddings (batch, num_tables, d)."""
    batch, num_tables, dim = embeddings.shape
    return DotShape(np.uint64(batch), np.uint64(num_tables), np.uint64(dim), np.uint64(columns))


@inlined
def copy_vectors(dense, embeddings, b, shape, vectors, width):
    """Copy the vectors of sample b into scratch, the dense one first."""
    copy_block(vectors, ZERO, dense, b * shape.dim, shape.dim)
    for t in range(shape.num_tables):
        first = (b * shape.num_tables + t) * shape.dim
        copy_block(vectors, (t + ONE) * width, embeddings, first, shape.dim)


@jit
def dot_forward(dense, embeddings, vectors, products, out):
    """One thread owns all rows: out (batch, d + pairs); scratch of one row, `vectors` zeroed."""
    shape = shape_of(embeddings, out.shape[1])
    buffers = RowBuffers(vectors.reshape(-1), np.uint64(vectors.shape[1]), products)
    dot_samples(dense.reshape(-1), embeddings.reshape(-1), shape, buffers, out.reshape(-1))


@inner
def dot_samples(dense, embeddings, shape, buffers, out):
    """All samples, of flat arrays."""
    count = shape.num_tables + ONE
    for b in range(shape.batch):
        copy_vectors(dense, embeddings, b, shape, buffers.vectors, buffers.width)
        o = b * shape.columns
        copy_block(out, o, dense, b * shape.dim, shape.dim)
        for i in range(ZERO, count, TILE):
            dot_rows(buffers, i, count, out, o + shape.dim)


class PairBuffers(NamedTuple):
    """Scratch for the gradients of one row, zeroed at first."""

    vectors: np.ndarray  # flat (padded rows, width)
    grads: np.ndarray  # likewise
    width: np.uint64
    weights: np.ndarray  # flat (rows, rows), gradients of the products
    rows: np.uint64


@jit
def dot_backward(dense, embeddings, grad_out, vectors, grads, weights, grad_dense, grad_embeddings):
    """One thread owns all rows; `vectors`, `grads` and `weights` are zeroed scratch of one row."""
    buffers = PairBuffers(
        vectors.reshape(-1),
        grads.reshape(-1),
        np.uint64(vectors.shape[1]),
        weights.reshape(-1),
        np.uint64(weights.shape[1]),
    )
    shape, inputs = (
        shape_of(embeddings, grad_out.shape[1]),
        (dense.reshape(-1), embeddings.reshape(-1)),
    )
    outputs = (grad_dense.reshape(-1), grad_embeddings.reshape(-1))
    dot_gradients(inputs, grad_out.reshape(-1), shape, buffers, outputs)


@inner
def dot_gradients(inputs, grad_out, shape, buffers, outputs):
    """The gradients of all samples; inputs and outputs are of the dense and the embedded part."""
    (dense, embeddings), (grad_dense, grad_embeddings) = inputs, outputs
    grads, width, weights, rows = buffers.grads, buffers.width, buffers.weights, buffers.rows
    dim, count = shape.dim, shape.num_tables + ONE
    for b in range(shape.batch):
        copy_vectors(dense, embeddings, b, shape, buffers.vectors, width)
        for i in range(width, count * width):
            grads[i] = 0
        o = b * shape.columns
        copy_block(grads, ZERO, grad_out, o, dim)
        spread_pairs(grad_out, o + dim, count, rows, weights)
        combine_pairs(weights, rows, buffers.vectors, width, count, grads)
        copy_block(grad_dense, b * dim, grads, ZERO, dim)
        for t in range(shape.num_tables):
            first = (b * shape.num_tables + t) * dim
            copy_block(grad_embeddings, first, grads, (t + ONE) * width, dim)


@inlined
def gather_row(source, key, table, entry, vectors, o):
    """Read one row into scratch."""
    if source.spec.sign:
        copy_row_signed(source, key, table, entry, vectors, o)
    else:
        copy_rows(source, Span(entry, ONE, entry, ZERO), vectors, o, False)


@inlined
def prefetch_rows(source, first, last, entry):
    """Ask for rows [first, last) of a sample whose starts begin at `entry`."""
    spec = source.spec
    length = min(spec.block_size, spec.embedding_dim)
    for place in range(entry + first * spec.num_blocks, entry + last * spec.num_blocks):
        prefetch_block(source.array, source.starts[place], length)


@inner
def gather_dot(source, indices, dense, first, last, entry, keep, buffers, out):
    """Samples [first, last): read their rows into scratch and multiply them there.

    Starts go to `entry` and on: of two samples, or of all if `keep`. The rows of the next sample
    are prefetched between the products of this one, a few at a time, so that memory is never idle.
    """
    starts, spec = source.starts, source.spec
    tables, dim = spec.num_tables, spec.embedding_dim
    size = tables * spec.num_blocks
    columns = dim + tables * (tables + ONE) // TWO
    after = entry + size
    if first < last:
        rows_starts(indices, first * tables, (first + ONE) * tables, spec, starts, entry)
    for b in range(first, last):
        ahead = tables if b + ONE < last else ZERO
        rows_starts(indices, (b + ONE) * tables, (b + ONE) * tables + ahead, spec, starts, after)
        copy_block(buffers.vectors, ZERO, dense, b * dim, dim)
        for t in range(tables):
            key, place = row_key(indices[b * tables + t], spec), entry + t * spec.num_blocks
            gather_row(source, key, t, place, buffers.vectors, (t + ONE) * buffers.width)
        copy_block(out, b * columns, dense, b * dim, dim)
        for i in range(ZERO, tables + ONE, TILE):
            prefetch_rows(source, min(i, ahead), min(i + TILE, ahead), after)
            dot_rows(buffers, i, tables + ONE, out, b * columns + dim)
        entry, after = after, after + size if keep else entry


@jit(parallel=True)
def lookup_dot(array, starts, spec, indices, dense, keep, buffers, out):
    """out (batch * columns,) of indices (n,) and dense (batch * d,); an iteration owns samples.

    starts are (n * num_blocks,) if they are kept, else scratch for two samples per
    worker. Each worker has a row of the buffers.
    """
    num_workers = buffers.vectors.shape[0]
    batch = np.uint64(indices.size) // spec.num_tables
    for worker in prange(num_workers):
        vectors = buffers.vectors[worker]
        vectors[:] = 0
        own = RowBuffers(vectors, buffers.width, buffers.products[worker])
        first, last = share(batch, worker, num_workers)
        entry = (first if keep else np.uint64(2 * worker)) * spec.num_tables * spec.num_blocks
        source = BlockSource(array, starts, spec)
        gather_dot(source, indices, dense, first, last, entry, keep, own, out)
