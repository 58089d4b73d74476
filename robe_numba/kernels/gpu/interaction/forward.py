"""Dot products of all pairs of a sample's vectors on the GPU: a thread block for each sample.

The vectors, looked up or given, are copied into shared memory, some columns at a time if not all
fit. A thread then multiplies a tile of four vectors with two other tiles, so that it reads 12
elements for 32 products. If there are fewer tiles than threads, several threads share one: each
takes some of the columns, and their sums are added in a fixed order.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np

from robe_numba.kernels.gpu.arrays import DeviceArray
from robe_numba.kernels.gpu.compiler import cuda, function, types
from robe_numba.kernels.gpu.context import DeviceContext, constants_on
from robe_numba.kernels.gpu.interaction import tiles
from robe_numba.kernels.gpu.interaction.products import multiply_split, multiply_whole
from robe_numba.kernels.gpu.interaction.tiles import (
    ALIGNMENT,
    CopyFunctions,
    by_four,
    by_one,
    copy,
    locate_given,
    pairs_below,
    read_given,
    store_x1,
)
from robe_numba.kernels.gpu.intrinsics import load_x1, load_x4, store_x4, stream_x1
from robe_numba.kernels.gpu.launch import THREADS, Kernel, Prepared
from robe_numba.kernels.gpu.lookup import in_vectors, place, with_sign, with_signs
from robe_numba.kernels.scalar.hashing import row_key, sign_word
from robe_numba.kernels.scalar.unsigned import ONE, U6, U63, ZERO
from robe_numba.spec import Spec

FORWARD_THREADS = min(THREADS, 64)
WORDS = 128  # of signs that are kept in shared memory, 1 KiB


class LookupSource(NamedTuple):
    """What embeddings are looked up with."""

    array: DeviceArray
    indices: DeviceArray  # (batch * num_tables,)
    starts: DeviceArray  # uint64 (batch * num_tables * num_blocks,), of all indices
    spec: Prepared


class DotVariant(NamedTuple):
    """What a kernel is compiled for. Anything more would cost registers and time."""

    given: bool  # embeddings are given, not looked up
    hashed: bool  # signs are hashed for each read
    kept: bool  # signs are kept in shared memory
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
    """`CopyFunctions.locate` of a `LookupSource`: the column, its block, and its place there."""
    block = column // lookup.spec.block_size
    return column, block, column - block * lookup.spec.block_size


@function
def read(lookup, words, sample, vector, located, shape, real, functions):
    """`CopyFunctions.read` of a `LookupSource` without signs."""
    spec, (_, block, offset), table = lookup.spec, located, vector - ONE
    row = sample * spec.num_tables + table
    start = lookup.starts[row * spec.num_blocks + block]
    return functions.load(lookup.array, place(start, offset, spec), real)


@function
def read_kept(lookup, words, sample, vector, located, shape, real, functions):
    """`CopyFunctions.read` of a `LookupSource`, with the signs in `words`."""
    value = read(lookup, words, sample, vector, located, shape, real, functions)
    column, table = located[0], vector - ONE
    signs = words[table * np.uint64(lookup.spec.sign_keys.shape[1]) + (column >> U6)]
    return functions.apply(value, signs, column & U63)


@function
def read_hashed(lookup, words, sample, vector, located, shape, real, functions):
    """`CopyFunctions.read` of a `LookupSource`, with signs that it hashes."""
    value = read(lookup, words, sample, vector, located, shape, real, functions)
    spec, column, table = lookup.spec, located[0], vector - ONE
    key = row_key(np.uint64(lookup.indices[sample * spec.num_tables + table]), spec)
    return functions.apply(value, sign_word(key, table, column, spec), column & U63)


@cache
def kernel_for(variant: DotVariant) -> Kernel:
    """Make `dot_forward` for a variant.

    It closes over numbers only, see `tiles.CopyFunctions`. Numba prunes the branches that these
    rule out before it infers types.
    """
    given, hashed, kept, four, split = variant
    num_words = WORDS if kept else 1
    threads = np.uint64(FORWARD_THREADS)

    def dot_forward(source, dense, shape, tile_bits, out):
        """A thread block for a sample's row of out (batch * columns,); dense is (batch * d,).

        1 << tile_bits threads have different tiles.
        """
        vectors = cuda.shared.array(0, out.dtype, ALIGNMENT)
        sample, thread = np.uint64(cuda.blockIdx.x), np.uint64(cuda.threadIdx.x)
        dim, width = shape.dim, shape.width
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
            functions = CopyFunctions(locating, reading, by_four, load_x4, store_x4, with_signs)
        else:
            functions = CopyFunctions(locating, reading, by_one, load_x1, store_x1, with_sign)
        o = sample * (dim + pairs_below(shape.num_vectors))
        first = ZERO
        while first < max(dim, ONE):
            cuda.syncthreads()
            copy(source, words, dense, sample, first, shape, vectors, thread, threads, functions)
            cuda.syncthreads()
            columns, add = min(width, dim - first), first > ZERO
            k = thread
            while k < columns:
                stream_x1(out, o + first + k, vectors[k])
                k += threads
            if split:
                multiply_split(
                    vectors, out, o + dim, shape, columns, tile_bits, add, thread, threads
                )
            else:
                multiply_whole(vectors, out, o + dim, shape, columns, add, thread, threads)
            first += width

    return Kernel(dot_forward)


@cache
def lookup_kernel(sign: bool, kept: bool, four: bool, split: bool) -> Kernel:
    """Make `dot_forward` of a `LookupSource`, with or without signs, kept or hashed."""
    return kernel_for(DotVariant(False, sign and not kept, sign and kept, four, split))


@cache
def given_kernel(four: bool, split: bool) -> Kernel:
    """Make `dot_forward` of embeddings (batch * num_tables * d,)."""
    return kernel_for(DotVariant(True, False, False, four, split))


def tile_bits(num_vectors: int, width: int, itemsize: int) -> int:
    """Logarithm of the number of threads with different tiles; the others share these tiles.

    At most as many threads share a tile as it has fours of columns, and as shared memory holds
    their sums.
    """
    numbers = (tiles.tiles(num_vectors) + 1) ** 2 // 4
    sums = num_vectors * (num_vectors - 1) // 2 * itemsize
    for bits in range(FORWARD_THREADS.bit_length()):
        slices = FORWARD_THREADS >> bits
        if 1 << bits >= numbers and slices < width // 2 and slices * sums <= tiles.SHARED_BYTES:
            return bits
    return FORWARD_THREADS.bit_length() - 1


def _launch(
    context: DeviceContext,
    kernel: Callable,
    source: Any,
    dense: DeviceArray,
    sizes: tuple[int, int, int],
    four: bool,
    out: DeviceArray,
) -> None:
    """Fill out, given num_vectors, d, and the width of `InteractionShape`."""
    num_vectors, dim, width = sizes
    itemsize = out.dtype.itemsize
    bits = tile_bits(num_vectors, width, itemsize)
    slices = FORWARD_THREADS >> bits
    sums = slices * num_vectors * (num_vectors - 1) // 2 if slices > 1 else 0
    shared = max(tiles.elements(num_vectors, width), sums) * itemsize
    arguments = (source, dense, tiles.shape_of(*sizes, four), np.uint64(bits), out)
    batch = out.size // (dim + num_vectors * (num_vectors - 1) // 2)
    kernel(four, slices > 1).launch(context, batch, FORWARD_THREADS, *arguments, shared=shared)


def lookup_dot(
    context: DeviceContext,
    array: DeviceArray,
    ids: DeviceArray,
    dense: DeviceArray,
    spec: Spec,
    starts: DeviceArray,
    out: DeviceArray,
    width: int,
) -> None:
    """Fill out (batch * columns,), given the starts of all ids and `tiles.columns_at_once`."""
    if out.size:
        source = LookupSource(array, ids, starts, constants_on(spec, context.device))
        sizes = spec.num_tables + 1, spec.embedding_dim, width
        kept = spec.num_tables * -(-spec.embedding_dim // 64) <= WORDS
        kernel = partial(lookup_kernel, spec.sign, kept)
        _launch(context, kernel, source, dense, sizes, in_vectors(spec, array, dense), out)


def given_dot(
    context: DeviceContext,
    dense: DeviceArray,
    embeddings: DeviceArray,
    shape: tuple[int, int, int],
    out: DeviceArray,
) -> None:
    """Fill out (batch * columns,), given the shape (batch, num_vectors, d)."""
    _, num_vectors, dim = shape
    width = tiles.columns_at_once(num_vectors, dim, out.dtype.itemsize)
    if out.size:
        four = tiles.in_fours(dim, dense, embeddings)
        _launch(context, given_kernel, embeddings, dense, (num_vectors, dim, width), four, out)
