"""Reading the array one row per id.

The table of a row follows from its place in the output: rows are (batch, num_tables), so row r
belongs to table r mod num_tables. Rows are taken in tiles: the starts of the next tile are hashed
and its blocks prefetched while this one is copied.
"""

import numpy as np
from numba import prange

from robe_numba._jit import inlined, inner, jit
from robe_numba.kernels.cpu.blocks import (
    block_length,
    copy_block,
    copy_signed,
    prefetch_block,
    stream_block,
)
from robe_numba.kernels.cpu.simd.types import fence, line_offset, load_x1
from robe_numba.kernels.cpu.starts import rows_starts, share
from robe_numba.kernels.scalar.hashing import row_key
from robe_numba.kernels.scalar.unsigned import ONE, ZERO

TILE_BYTES = 16384  # of output: far enough ahead for a read from memory, and at home in any cache
MIN_TILE, MAX_TILE = 8, 128  # rows
# A worker's output beyond this would push what others need out of its second-level cache.
STREAM_BYTES = 1 << 20


def tile_rows(row_bytes: int) -> int:
    """Rows of a tile, a multiple of the rows that are hashed together."""
    return max(MIN_TILE, min(MAX_TILE, TILE_BYTES // row_bytes // 8 * 8))


@inlined
def streams(out, spec):
    """Whether all blocks of an output begin and end with vectors that `stream` can write."""
    dim, length = spec.embedding_dim, min(spec.block_size, spec.embedding_dim)
    vectors = (length == 8 and dim % np.uint64(8) == 0) or (
        length % np.uint64(16) == 0 and dim % np.uint64(16) == 0
    )
    return vectors and line_offset(out) == 0


@inlined
def copy_wrapped(out, o, array, start, length, spec):
    """Copy a block that goes on at the beginning of the array."""
    end = spec.array_size - start
    copy_block(out, o, array, start, end)
    copy_block(out, o + end, array, ZERO, length - end)


@inlined
def copy_row_signed(array, key, table, spec, starts, entry, out, o):
    """Copy one row with its signs."""
    element = ZERO
    for block in range(spec.num_blocks):
        start, length = starts[entry + block], block_length(block, spec)
        end = min(length, spec.array_size - start)
        copy_signed(out, o + element, array, start, end, key, table, element, spec)
        if end < length:
            o2, element2 = o + element + end, element + end
            copy_signed(out, o2, array, ZERO, length - end, key, table, element2, spec)
        element += length


@inner
def copy_blocks(array, count, length, spec, starts, entry, ahead, num_ahead, out, o, streaming):
    """Copy `count` blocks of equal length, side by side, whose starts begin at `entry`.

    Prefetches the first `num_ahead` of the blocks whose starts begin at `ahead`.
    """
    if length == ONE:
        for k in range(count):
            out[o + k] = load_x1(array, starts[entry + k])
        return
    for k in range(count):
        if k < num_ahead:
            prefetch_block(array, starts[ahead + k], length)
        start = starts[entry + k]
        if start + length > spec.array_size:
            copy_wrapped(out, o, array, start, length, spec)
        elif streaming:
            stream_block(out, o, array, start, length)
        else:
            copy_block(out, o, array, start, length)
        o += length


@inlined
def copy_rows(array, rows, spec, starts, entry, ahead, num_ahead, out, o, streaming):
    """Copy so many rows, whose starts begin at `entry`; prefetch `num_ahead` rows at `ahead`."""
    count, length = spec.num_blocks, min(spec.block_size, spec.embedding_dim)
    rest = spec.embedding_dim - (count - ONE) * length
    if rest == length:
        copy_blocks(
            array,
            rows * count,
            length,
            spec,
            starts,
            entry,
            ahead,
            num_ahead * count,
            out,
            o,
            streaming,
        )
        return
    for row in range(rows):
        full = count - ONE
        now = full if row < num_ahead else ZERO
        copy_blocks(array, full, length, spec, starts, entry, ahead, now, out, o, streaming)
        entry, ahead, o = entry + full, ahead + full, o + full * length
        copy_blocks(array, ONE, rest, spec, starts, entry, ahead, ZERO, out, o, streaming)
        entry, ahead, o = entry + ONE, ahead + ONE, o + rest


@inner
def lookup_rows(array, indices, row, last, spec, starts, entry, keep, tile, out, streaming):
    """Rows [row, last) of the output. Starts go to `entry` and on; two tiles, or all if `keep`."""
    size = tile * spec.num_blocks
    after = entry + size
    rows_starts(indices, row, min(row + tile, last), spec, starts, entry)
    while row < last:
        middle = min(row + tile, last)
        end = min(middle + tile, last)
        rows_starts(indices, middle, end, spec, starts, after)
        o = row * spec.embedding_dim
        if spec.sign:
            for r in range(row, middle):
                place = entry + (r - row) * spec.num_blocks
                key, table = row_key(indices[r], spec), r % spec.num_tables
                copy_row_signed(array, key, table, spec, starts, place, out, o)
                o += spec.embedding_dim
        else:
            copy_rows(
                array, middle - row, spec, starts, entry, after, end - middle, out, o, streaming
            )
        row = middle
        entry, after = after, after + size if keep else entry


@jit(parallel=True)
def lookup(array, indices, spec, starts, keep, tile, out, num_workers):
    """out (n * d,) of indices (n,); one iteration owns a worker's rows.

    starts are (n * num_blocks,) if they are kept, else scratch for two tiles per worker.
    """
    streaming = streams(out, spec) and out.nbytes > STREAM_BYTES * num_workers
    for worker in prange(num_workers):
        first, last = share(indices.size, worker, num_workers)
        entry = (first if keep else np.uint64(2 * worker) * tile) * spec.num_blocks
        lookup_rows(array, indices, first, last, spec, starts, entry, keep, tile, out, streaming)
        fence()
