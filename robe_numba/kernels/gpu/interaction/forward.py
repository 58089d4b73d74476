"""Dot products of all pairs of a sample's vectors on the GPU: a thread block for each sample.

The vectors, looked up or given, are put into shared memory, some of their columns at a time if not
all fit. A thread then multiplies a tile of four vectors with two such tiles, so that it reads 12
elements for 32 products. If there are fewer tiles than threads, several threads share one: each
takes some of the columns, and their sums are added up in a fixed order.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np

from robe_numba.kernels.gpu.arrays import DeviceArray
from robe_numba.kernels.gpu.compiler import SIMULATED, cuda, function, types
from robe_numba.kernels.gpu.device import Work, device_spec
from robe_numba.kernels.gpu.interaction import tiles
from robe_numba.kernels.gpu.interaction.products import (
    add_slices,
    multiply_tiles,
    put_tiles,
    tile_of,
)
from robe_numba.kernels.gpu.interaction.tiles import (
    ALIGNMENT,
    Way,
    by_four,
    by_one,
    copy,
    keep1,
    locate_given,
    pairs_below,
    read_given,
)
from robe_numba.kernels.gpu.intrinsics import keep4, load1, load4, store1
from robe_numba.kernels.gpu.launch import Kernel, Prepared
from robe_numba.kernels.gpu.lookup import in_vectors, place, with_sign, with_signs
from robe_numba.kernels.scalar.hashing import row_key, sign_word
from robe_numba.kernels.scalar.unsigned import ONE, THREE, TWO, U6, U63, ZERO
from robe_numba.spec import Spec

THREADS = 32 if SIMULATED else 64  # of a thread block
WORDS = 128  # of signs that are kept in shared memory, 1 KiB


class Lookup(NamedTuple):
    """What embeddings are looked up with."""

    array: DeviceArray
    indices: DeviceArray  # (batch * num_tables,)
    starts: DeviceArray  # uint64 (batch * num_tables * num_blocks,), of all indices
    spec: Prepared


class Form(NamedTuple):
    """What a kernel is compiled for: what is not needed would cost registers and time."""

    given: bool  # embeddings, and not a `Lookup`
    hashed: bool  # there are signs, hashed for each read
    kept: bool  # there are signs, kept in shared memory
    four: bool  # elements are copied four at a time
    split: bool  # several threads share tiles


@function
def hash_signs(lookup, sample, words, thread, threads):
    """words = the signs of the sample's rows."""
    spec = lookup.spec
    groups = np.uint64(spec.sign_keys.shape[1])
    i = thread
    while i < spec.num_tables * groups:
        table, group = i // groups, i % groups
        key = row_key(np.uint64(lookup.indices[sample * spec.num_tables + table]), spec)
        words[i] = sign_word(key, table, group << U6, spec)
        i += threads


@function
def locate(lookup, column):
    """`Way.locate` of a `Lookup`: the column, its block, and where it is in that."""
    block = column // lookup.spec.block_size
    return column, block, column - block * lookup.spec.block_size


@function
def read(lookup, words, sample, vector, located, shape, real, way):
    """`Way.read` of a `Lookup` without signs."""
    spec, (_, block, offset), table = lookup.spec, located, vector - ONE
    row = sample * spec.num_tables + table
    start = lookup.starts[row * spec.num_blocks + block]
    return way.load(lookup.array, place(start, offset, spec), real)


@function
def read_kept(lookup, words, sample, vector, located, shape, real, way):
    """`Way.read` of a `Lookup`, with signs that are in `words`."""
    value = read(lookup, words, sample, vector, located, shape, real, way)
    column, table = located[0], vector - ONE
    signs = words[table * np.uint64(lookup.spec.sign_keys.shape[1]) + (column >> U6)]
    return way.apply(value, signs, column & U63)


@function
def read_hashed(lookup, words, sample, vector, located, shape, real, way):
    """`Way.read` of a `Lookup`, with signs that are hashed."""
    value = read(lookup, words, sample, vector, located, shape, real, way)
    spec, column, table = lookup.spec, located[0], vector - ONE
    key = row_key(np.uint64(lookup.indices[sample * spec.num_tables + table]), spec)
    return way.apply(value, sign_word(key, table, column, spec), column & U63)


@cache
def kernel_for(form: Form) -> Kernel:
    """The kernel for a form. It closes over numbers alone, see `dot_tiles.Way`; Numba leaves out
    the branches that these rule out, and need not find types for them.
    """
    given, hashed, kept, four, split = form
    num_words = WORDS if kept else 1
    threads = np.uint64(THREADS)

    def dot_forward(source, dense, shape, tile_bits, out):
        """A thread block for a sample's row of out (batch * columns,); dense is (batch * d,).

        1 << tile_bits threads have different tiles.
        """
        vectors = cuda.shared.array(0, out.dtype, ALIGNMENT)
        sample, thread = np.uint64(cuda.blockIdx.x), np.uint64(cuda.threadIdx.x)
        num_vectors, dim, width = shape.num_vectors, shape.dim, shape.width
        pairs, slices = pairs_below(num_vectors), threads >> tile_bits
        whole = (num_vectors + THREE) >> TWO
        numbers = ((whole + ONE) * (whole + ONE)) >> TWO
        words = cuda.shared.array(num_words, types.uint64)
        if kept:
            hash_signs(source, sample, words, thread, threads)
        if given:
            locating, reading = locate_given, read_given
        elif kept:
            locating, reading = locate, read_kept
        elif hashed:
            locating, reading = locate, read_hashed
        else:
            locating, reading = locate, read
        if four:
            way = Way(locating, reading, by_four, load4, keep4, with_signs)
        else:
            way = Way(locating, reading, by_one, load1, keep1, with_sign)
        o = sample * (dim + pairs)
        first = ZERO
        while first < max(dim, ONE):
            cuda.syncthreads()
            copy(source, words, dense, sample, first, shape, vectors, thread, threads, way)
            cuda.syncthreads()
            columns, add = min(width, dim - first), first > ZERO
            k = thread
            while k < columns:
                store1(out, o + first + k, vectors[k])
                k += threads
            if split:
                number = thread & ((ONE << tile_bits) - ONE)
                i, j = tile_of(min(number, numbers - ONE))
                begin = thread >> tile_bits
                rows = multiply_tiles(vectors, i, j, begin, slices, columns, width)
                cuda.syncthreads()
                if number < numbers:
                    i, j = tile_of(number)
                    put_tiles(vectors, begin * pairs, i, j, rows, num_vectors, False)
                cuda.syncthreads()
                add_slices(vectors, slices, pairs, out, o + dim, add, thread, threads)
            else:
                number = thread
                while number < numbers:
                    i, j = tile_of(number)
                    rows = multiply_tiles(vectors, i, j, ZERO, ONE, columns, width)
                    put_tiles(out, o + dim, i, j, rows, num_vectors, add)
                    number += threads
            first += width

    return Kernel(dot_forward)


@cache
def lookup_kernel(sign: bool, kept: bool, four: bool, split: bool) -> Kernel:
    """`dot_forward` of a `Lookup`, with or without signs, which are kept in shared memory or hashed
    for each read.
    """
    return kernel_for(Form(False, sign and not kept, sign and kept, four, split))


@cache
def given_kernel(four: bool, split: bool) -> Kernel:
    """`dot_forward` of embeddings (batch * num_tables * d,)."""
    return kernel_for(Form(True, False, False, four, split))


def tile_bits(num_vectors: int, width: int, itemsize: int) -> int:
    """Logarithm of how many threads have different tiles; the others share these with them.

    No more threads share a tile than it has fours of columns, nor than have room for their sums.
    """
    numbers = (tiles.tiles(num_vectors) + 1) ** 2 // 4
    sums = num_vectors * (num_vectors - 1) // 2 * itemsize
    for bits in range(THREADS.bit_length()):
        slices = THREADS >> bits
        if 1 << bits >= numbers and slices < width // 2 and slices * sums <= tiles.SHARED_BYTES:
            return bits
    return THREADS.bit_length() - 1


def _launch(
    work: Work,
    kernel: Callable,
    source: Any,
    dense: DeviceArray,
    sizes: tuple[int, int, int],
    four: bool,
    out: DeviceArray,
) -> None:
    """Fill out given num_vectors, d, and the width of `Shape`."""
    num_vectors, dim, width = sizes
    itemsize = out.dtype.itemsize
    bits = tile_bits(num_vectors, width, itemsize)
    slices = THREADS >> bits
    sums = slices * num_vectors * (num_vectors - 1) // 2 if slices > 1 else 0
    shared = max(tiles.elements(num_vectors, width), sums) * itemsize
    arguments = (source, dense, tiles.shape_of(*sizes, four), np.uint64(bits), out)
    batch = out.size // (dim + num_vectors * (num_vectors - 1) // 2)
    kernel(four, slices > 1).launch(work, batch, THREADS, *arguments, shared=shared)


def launch(
    work: Work,
    array: DeviceArray,
    ids: DeviceArray,
    dense: DeviceArray,
    spec: Spec,
    starts: DeviceArray,
    out: DeviceArray,
    width: int,
) -> None:
    """Fill out (batch * columns,), given the starts of all ids and `dot_tiles.columns_at_once`."""
    if out.size:
        source = Lookup(array, ids, starts, device_spec(spec, work))
        sizes = spec.num_tables + 1, spec.embedding_dim, width
        kept = spec.num_tables * -(-spec.embedding_dim // 64) <= WORDS
        kernel = partial(lookup_kernel, spec.sign, kept)
        _launch(work, kernel, source, dense, sizes, in_vectors(spec, array, dense), out)


def forward(
    work: Work,
    dense: DeviceArray,
    embeddings: DeviceArray,
    shape: tuple[int, int, int],
    out: DeviceArray,
) -> None:
    """Fill out (batch * columns,) given the shape (batch, num_vectors, d)."""
    _, num_vectors, dim = shape
    width = tiles.columns_at_once(num_vectors, dim, out.dtype.itemsize)
    if out.size:
        four = tiles.in_fours(dim, dense, embeddings)
        _launch(work, given_kernel, embeddings, dense, (num_vectors, dim, width), four, out)
