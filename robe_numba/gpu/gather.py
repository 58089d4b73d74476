"""Reading blocks of the array into rows, one thread block per tile of blocks.

The blocks of all rows are numbered one after the other: block k of row r is r * num_blocks + k. A
thread block first hashes the blocks of its tile, each once, into shared memory; then groups of
lanes copy them, four blocks at a time, so that a thread waits for four reads at once. Neighbouring
lanes read and write neighbouring elements.
"""

from typing import Any

import numpy as np
from numba import cuda, types

from robe_numba.gpu.device import SIMULATED, address, as_seen, device_spec
from robe_numba.gpu.vector import load1, load4, store4
from robe_numba.hashing import block_start, row_key, sign_word
from robe_numba.spec import RobeSpec, Spec
from robe_numba.unsigned import ONE, THREE, TWO, U4, U63, ZERO

THREADS = 32 if SIMULATED else 256  # of a thread block
UNROLL = 4  # blocks of the array that a group of lanes copies at a time
# Sections of shared memory, a word for each block of the tile: its start, where it goes in the
# output, how many elements it has, and the key of its row.
SECTIONS = 4


@cuda.jit(device=True)
def tile_of(indices, spec, lanes):
    """The thread's group of lanes and lane, the number of groups, and the tile's first block and
    number of blocks.
    """
    thread, groups = np.uint64(cuda.threadIdx.x), np.uint64(cuda.blockDim.x) // lanes
    first = np.uint64(cuda.blockIdx.x) * groups * U4
    count = min(groups * U4, np.uint64(indices.size) * spec.num_blocks - first)
    return thread // lanes, thread % lanes, groups, first, count


@cuda.jit(device=True)
def hash_tile(indices, first, count, spec, keep, starts, tile):
    """Fill in shared memory for blocks [first, first + count), and `starts` if `keep`."""
    for i in range(cuda.threadIdx.x, count, cuda.blockDim.x):
        i = np.uint64(i)
        number = first + i
        row, block = number // spec.num_blocks, number % spec.num_blocks
        key = row_key(np.uint64(indices[row]), spec)
        start = block_start(key, row % spec.num_tables, block, spec)
        element = block * spec.block_size
        tile[i] = start
        tile[count + i] = row * spec.embedding_dim + element
        tile[TWO * count + i] = min(spec.block_size, spec.embedding_dim - element)
        tile[THREE * count + i] = key
        if keep:
            starts[number] = start
    cuda.syncthreads()


@cuda.jit(device=True)
def place(start, j, spec):
    """Where element j of a block is, in the circular array."""
    position = start + j
    return position - spec.array_size if position >= spec.array_size else position


@cuda.jit(device=True)
def read(array, tile, count, i, j, spec, real):
    """Element j of the tile's block i as a `real`, or anything where there is none."""
    if i < count and j < tile[TWO * count + i]:
        return load1(array, place(tile[i], j, spec), real)
    return real(0)


@cuda.jit(device=True)
def signed(value, key, table, element, spec):
    """A value of a row's element, with the sign that the spec gives it."""
    if spec.sign and (sign_word(key, table, element, spec) >> (element & U63)) & ONE:
        return -value
    return value


@cuda.jit(device=True)
def write(out, tile, count, i, j, value, first, spec):
    """Element j of the tile's block i with its sign, if there is one."""
    if i < count and j < tile[TWO * count + i]:
        if spec.sign:
            row, block = (first + i) // spec.num_blocks, (first + i) % spec.num_blocks
            key, element = tile[THREE * count + i], block * spec.block_size + j
            value = signed(value, key, row % spec.num_tables, element, spec)
        out[tile[count + i] + j] = value


@cuda.jit
def gather(array, indices, spec, keep, starts, out, lanes):
    """out (n * d,) of indices (n,); `lanes` threads, a power of two, share a block.

    Shared memory: SECTIONS words for each of the tile's UNROLL * blockDim / lanes blocks.
    """
    tile = cuda.shared.array(0, types.uint64)
    group, lane, groups, first, count = tile_of(indices, spec, lanes)
    hash_tile(indices, first, count, spec, keep, starts, tile)
    i_1, real = group + groups, out.dtype.type
    i_2, i_3 = i_1 + groups, i_1 + TWO * groups
    for j in range(lane, min(spec.block_size, spec.embedding_dim), lanes):
        j = np.uint64(j)
        v_0 = read(array, tile, count, group, j, spec, real)
        v_1 = read(array, tile, count, i_1, j, spec, real)
        v_2 = read(array, tile, count, i_2, j, spec, real)
        v_3 = read(array, tile, count, i_3, j, spec, real)
        write(out, tile, count, group, j, v_0, first, spec)
        write(out, tile, count, i_1, j, v_1, first, spec)
        write(out, tile, count, i_2, j, v_2, first, spec)
        write(out, tile, count, i_3, j, v_3, first, spec)


@cuda.jit(device=True)
def read_vector(array, tile, count, i, j, spec, real):
    """As `read`, four elements; the circular end is between vectors."""
    return load4(array, place(tile[i], j, spec) if i < count else ZERO, real)


@cuda.jit(device=True)
def write_vector(out, tile, count, i, j, values):
    """As `write`, four elements without signs."""
    if i < count:
        store4(out, tile[count + i] + j, values)


@cuda.jit
def gather_vectors(array, indices, spec, keep, starts, out, lanes):
    """As `gather`, without signs, where all is read and written in aligned vectors of four.

    It is if alignment, Z, d and m are multiples of four, and equal blocks fill the rows.
    """
    tile = cuda.shared.array(0, types.uint64)
    group, lane, groups, first, count = tile_of(indices, spec, lanes)
    hash_tile(indices, first, count, spec, keep, starts, tile)
    i_1, real = group + groups, out.dtype.type
    i_2, i_3 = i_1 + groups, i_1 + TWO * groups
    for j in range(U4 * lane, min(spec.block_size, spec.embedding_dim), U4 * lanes):
        j = np.uint64(j)
        v_0 = read_vector(array, tile, count, group, j, spec, real)
        v_1 = read_vector(array, tile, count, i_1, j, spec, real)
        v_2 = read_vector(array, tile, count, i_2, j, spec, real)
        v_3 = read_vector(array, tile, count, i_3, j, spec, real)
        write_vector(out, tile, count, group, j, v_0)
        write_vector(out, tile, count, i_1, j, v_1)
        write_vector(out, tile, count, i_2, j, v_2)
        write_vector(out, tile, count, i_3, j, v_3)


def launch(work: Any, array: Any, ids: Any, spec: Spec, starts: Any, out: Any) -> None:
    """Fill out (n * d,) with the rows of ids (n,), and starts unless None."""
    if out.size == 0:
        return
    length = min(spec.block_size, spec.embedding_dim)
    kernel, elements = gather, length
    if in_vectors(spec, array, out):
        kernel, elements = gather_vectors, length // 4
    lanes = min(1 << (elements - 1).bit_length(), 32)
    tile = UNROLL * THREADS // lanes
    grid, shared = -(-ids.size * spec.num_blocks // tile), 8 * SECTIONS * tile
    keep = starts is not None
    kept = starts if keep else as_seen(work.empty((0,), np.uint64))
    kernel[grid, THREADS, work.stream, shared](
        array, ids, device_spec(spec), keep, kept, out, np.uint64(lanes)
    )


def in_vectors(spec: Spec, array: Any, out: Any) -> bool:
    """Whether blocks are made of vectors of four that are aligned wherever they are."""
    length = min(spec.block_size, spec.embedding_dim)
    alignment = spec.alignment if isinstance(spec, RobeSpec) else spec.embedding_dim
    numbers = (length, spec.embedding_dim, spec.array_size, alignment)
    if spec.sign or spec.embedding_dim % length:
        return False
    if any(number % 4 for number in numbers):
        return False
    return all(address(memory) % (4 * memory.dtype.itemsize) == 0 for memory in (array, out))
