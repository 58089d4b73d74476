"""Dot products of all pairs of a sample's vectors on the GPU: a thread block for each sample.

The vectors, looked up or given, are put into shared memory, some of their columns at a time if not
all fit, and multiplied there. Rows of shared memory are an odd number of elements apart, so that
lanes that read the same column of different vectors use different banks.
"""

from typing import Any

import numpy as np
from numba import cuda

from robe_numba.gpu.device import SIMULATED, device_spec
from robe_numba.gpu.pool import element_at
from robe_numba.spec import Spec
from robe_numba.unsigned import ONE, THREE, TWO, U4, ZERO

THREADS = 32 if SIMULATED else 128  # of a thread block
SHARED_BYTES = 48 << 10  # that every GPU gives a thread block


@cuda.jit(device=True)
def gather_columns(array, indices, dense, first, count, sample, spec, starts, vectors, stride):
    """Gather columns [first, first + count) of a sample's vectors; vector 0 is the dense one."""
    real, tables = dense.dtype.type, spec.num_tables
    for k in range(cuda.threadIdx.x, (tables + ONE) * count, cuda.blockDim.x):
        vector, column = np.uint64(k) // count, np.uint64(k) % count
        if vector == ZERO:
            value = dense[sample * spec.embedding_dim + first + column]
        else:
            row = sample * tables + vector - ONE
            value = element_at(array, indices, row, row, first + column, spec, starts, real)
        vectors[vector * stride + column] = value


@cuda.jit(device=True)
def add_products(vectors, stride, count, num_vectors, out, o, add):
    """Dot products of all pairs, by `count` columns, to out[o:] or added to what is there.

    Every pair is b and the vector a + 1 places after it, around the circle of all vectors: so
    neighbouring threads have neighbouring vectors.
    """
    for k in range(cuda.threadIdx.x, num_vectors * (num_vectors - ONE) // TWO, cuda.blockDim.x):
        a, b = np.uint64(k) // num_vectors, np.uint64(k) % num_vectors
        other = (b + a + ONE) % num_vectors
        total = vectors.dtype.type(0)
        for column in range(count):
            total += vectors[b * stride + column] * vectors[other * stride + column]
        high, low = max(b, other), min(b, other)
        place = o + high * (high - ONE) // TWO + low
        out[place] = out[place] + total if add else total


@cuda.jit(device=True)
def copy_features(dense, dim, num_vectors, out):
    """Begin the thread block's row of `out` with its dense vector; where the products begin."""
    sample = np.uint64(cuda.blockIdx.x)
    o = sample * (dim + num_vectors * (num_vectors - ONE) // TWO)
    for column in range(cuda.threadIdx.x, dim, cuda.blockDim.x):
        out[o + np.uint64(column)] = dense[sample * dim + np.uint64(column)]
    return o + dim


@cuda.jit
def lookup_dot(array, indices, dense, spec, starts, out, width):
    """out (batch * columns,) of indices (n,), dense (batch * d,) and all starts (n * num_blocks,).

    Shared memory: an odd number of elements, `width` or one more, for each vector.
    """
    vectors = cuda.shared.array(0, out.dtype)
    sample, dim, num_vectors = np.uint64(cuda.blockIdx.x), spec.embedding_dim, spec.num_tables + ONE
    stride = width | ONE
    o = copy_features(dense, dim, num_vectors, out)
    for first in range(ZERO, dim, width):
        count = min(width, dim - first)
        cuda.syncthreads()
        gather_columns(array, indices, dense, first, count, sample, spec, starts, vectors, stride)
        cuda.syncthreads()
        add_products(vectors, stride, count, num_vectors, out, o, first > ZERO)


@cuda.jit(device=True)
def element_of(dense, embeddings, vector, column, num_vectors, dim):
    """An element of one of the thread block's vectors; vector 0 is the dense one."""
    sample = np.uint64(cuda.blockIdx.x)
    if vector == ZERO:
        return dense[sample * dim + column]
    return embeddings[(sample * (num_vectors - ONE) + vector - ONE) * dim + column]


@cuda.jit
def dot_forward(dense, embeddings, num_vectors, dim, out, width):
    """As `lookup_dot`, of dense (batch * d,) and embeddings (batch * tables * d,)."""
    vectors = cuda.shared.array(0, out.dtype)
    stride = width | ONE
    o = copy_features(dense, dim, num_vectors, out)
    for first in range(ZERO, dim, width):
        count = min(width, dim - first)
        cuda.syncthreads()
        for k in range(cuda.threadIdx.x, num_vectors * count, cuda.blockDim.x):
            vector, column = np.uint64(k) // count, np.uint64(k) % count
            value = element_of(dense, embeddings, vector, first + column, num_vectors, dim)
            vectors[vector * stride + column] = value
        cuda.syncthreads()
        add_products(vectors, stride, count, num_vectors, out, o, first > ZERO)


@cuda.jit(device=True)
def put(embeddings, vector, column, num_vectors, dim, value):
    """Set an element of the thread block's vector, from 1 on, if there is one."""
    if vector < num_vectors:
        sample = np.uint64(cuda.blockIdx.x)
        embeddings[(sample * (num_vectors - ONE) + vector - ONE) * dim + column] = value


@cuda.jit(device=True)
def spread_pairs(grad_out, o, first, rows, num_vectors, weights):
    """weights (num_vectors, rows) = columns [first, first + rows) of the symmetric matrix whose
    lower triangle begins at grad_out[o]; zeros on its diagonal and beyond it.
    """
    for k in range(cuda.threadIdx.x, num_vectors * rows, cuda.blockDim.x):
        a, b = np.uint64(k) // rows, first + np.uint64(k) % rows
        high, low = max(a, b), min(a, b)
        weights[k] = 0
        if low < high < num_vectors:
            weights[k] = grad_out[o + high * (high - ONE) // TWO + low]


@cuda.jit
def dot_backward(dense, embeddings, grad_out, num_vectors, dim, rows, grad_dense, grad_embeddings):
    """The gradients of `dot_forward`'s dense and embeddings: a thread for each column, four
    vectors at a time.

    Shared memory: num_vectors * rows elements; `rows` is a multiple of four.
    """
    weights = cuda.shared.array(0, grad_out.dtype)
    sample = np.uint64(cuda.blockIdx.x)
    o = sample * (dim + num_vectors * (num_vectors - ONE) // TWO)
    for first in range(ZERO, num_vectors, rows):
        cuda.syncthreads()
        spread_pairs(grad_out, o + dim, first, rows, num_vectors, weights)
        cuda.syncthreads()
        for column in range(cuda.threadIdx.x, dim, cuda.blockDim.x):
            column = np.uint64(column)
            for b in range(first, min(first + rows, num_vectors), U4):
                t_0 = t_1 = t_2 = t_3 = grad_out.dtype.type(0)
                for a in range(ZERO, num_vectors):
                    value = element_of(dense, embeddings, a, column, num_vectors, dim)
                    w = a * rows + b - first
                    t_0 += weights[w] * value
                    t_1 += weights[w + ONE] * value
                    t_2 += weights[w + TWO] * value
                    t_3 += weights[w + THREE] * value
                if b == ZERO:
                    grad_dense[sample * dim + column] = grad_out[o + column] + t_0
                else:
                    put(grad_embeddings, b, column, num_vectors, dim, t_0)
                put(grad_embeddings, b + ONE, column, num_vectors, dim, t_1)
                put(grad_embeddings, b + TWO, column, num_vectors, dim, t_2)
                put(grad_embeddings, b + THREE, column, num_vectors, dim, t_3)


def columns_at_once(num_vectors: int, dim: int, itemsize: int) -> int:
    """How many columns of a sample's vectors fit shared memory."""
    most = _room(num_vectors, itemsize)
    return min(dim, (most - 1) // 2 * 2 + 1)


def _room(num_vectors: int, itemsize: int, least: int = 1) -> int:
    """How many elements of each vector fit shared memory, `least` or more."""
    most = SHARED_BYTES // (num_vectors * itemsize)
    if most < least:
        raise ValueError(
            f"num_tables is {num_vectors - 1}; on a GPU the interaction takes at most "
            f"{SHARED_BYTES // (least * itemsize) - 1}: use lookup and matrix products"
        )
    return most


def launch(
    work: Any, array: Any, ids: Any, dense: Any, spec: Spec, starts: Any, out: Any, width: int
) -> None:
    """Fill out (batch * columns,), given the starts of all ids and `columns_at_once`."""
    batch = ids.size // spec.num_tables
    if batch:
        shared = (width | 1) * (spec.num_tables + 1) * out.dtype.itemsize
        lookup_dot[batch, THREADS, work.stream, shared](
            array, ids, dense, device_spec(spec), starts, out, np.uint64(width)
        )


def forward(work: Any, dense: Any, embeddings: Any, shape: tuple[int, int, int], out: Any) -> None:
    """Fill out (batch * columns,) given the shape (batch, num_vectors, d)."""
    batch, num_vectors, dim = shape
    width = columns_at_once(num_vectors, dim, out.dtype.itemsize)
    if batch:
        shared = (width | 1) * num_vectors * out.dtype.itemsize
        sizes = np.uint64(num_vectors), np.uint64(dim)
        dot_forward[batch, THREADS, work.stream, shared](
            dense, embeddings, *sizes, out, np.uint64(width)
        )


def backward(
    work: Any, inputs: tuple[Any, Any, Any], shape: tuple[int, int, int], grads: tuple[Any, Any]
) -> None:
    """Fill the gradients of dense and embeddings, given both, grad_out and shape as `forward`."""
    batch, num_vectors, dim = shape
    itemsize = grads[0].dtype.itemsize
    rows = min(_room(num_vectors, itemsize, least=4), num_vectors + 3) // 4 * 4
    if batch:
        sizes = np.uint64(num_vectors), np.uint64(dim), np.uint64(rows)
        dot_backward[batch, THREADS, work.stream, num_vectors * rows * itemsize](
            *inputs, *sizes, *grads
        )
