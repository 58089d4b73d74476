"""Lookup and dot products of all pairs in one pass on the GPU: a thread block for each sample.

The vectors of a sample are gathered into shared memory, some of their columns at a time if not all
fit, and multiplied there. Rows of shared memory are an odd number of elements apart, so that lanes
that read the same column of different vectors use different banks.
"""

from typing import Any

import numpy as np
from numba import cuda

from robe_numba.gpu.device import SIMULATED, device_spec
from robe_numba.gpu.pool import element_at
from robe_numba.spec import Spec
from robe_numba.unsigned import ONE, TWO, ZERO

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


@cuda.jit
def lookup_dot(array, indices, dense, spec, starts, out, width):
    """out (batch * columns,) of indices (n,), dense (batch * d,) and all starts (n * num_blocks,).

    Shared memory: an odd number of elements, `width` or one more, for each vector.
    """
    vectors = cuda.shared.array(0, out.dtype)
    sample, dim, num_vectors = np.uint64(cuda.blockIdx.x), spec.embedding_dim, spec.num_tables + ONE
    stride = width | ONE
    o = sample * (dim + num_vectors * (num_vectors - ONE) // TWO)
    for column in range(cuda.threadIdx.x, dim, cuda.blockDim.x):
        out[o + np.uint64(column)] = dense[sample * dim + np.uint64(column)]
    for first in range(ZERO, dim, width):
        count = min(width, dim - first)
        cuda.syncthreads()
        gather_columns(array, indices, dense, first, count, sample, spec, starts, vectors, stride)
        cuda.syncthreads()
        add_products(vectors, stride, count, num_vectors, out, o + dim, first > ZERO)


def columns_at_once(spec: Spec, itemsize: int) -> int:
    """How many columns of a sample's vectors fit shared memory."""
    most = SHARED_BYTES // ((spec.num_tables + 1) * itemsize)
    if most < 1:
        raise ValueError(
            f"num_tables is {spec.num_tables}; on a GPU the interaction takes at most "
            f"{SHARED_BYTES // itemsize - 1}: use lookup and matrix products"
        )
    return min(spec.embedding_dim, (most - 1) // 2 * 2 + 1)


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
