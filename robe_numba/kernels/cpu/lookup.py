"""Reading the array one row per id.

Rows of the output are (batch, num_tables), so row r belongs to table r mod num_tables. Rows are
copied in tiles: while one is copied, the starts of the next are hashed and its blocks prefetched.
"""

from typing import NamedTuple

import numpy as np
from numba import prange

from robe_numba._jit import inlined, inner, jit
from robe_numba.kernels.cpu.blocks import (
    BlockSource,
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

TILE_BYTES = 16384  # of output: far enough ahead for a read from memory, and small for any cache
MIN_TILE, MAX_TILE = 8, 128  # rows
# A larger output of a worker would push everything else out of its second-level cache.
STREAM_BYTES = 1 << 20


def tile_rows(row_bytes: int) -> int:
    """Rows of a tile, a multiple of the rows that are hashed together."""
    return max(MIN_TILE, min(MAX_TILE, TILE_BYTES // row_bytes // 8 * 8))


@inlined
def streams(out, spec):
    """Whether `stream` can write all blocks of an output, in whole aligned vectors."""
    dim, length = spec.embedding_dim, min(spec.block_size, spec.embedding_dim)
    vectors = (length == 8 and dim % np.uint64(8) == 0) or (
        length % np.uint64(16) == 0 and dim % np.uint64(16) == 0
    )
    return vectors and line_offset(out) == 0


@inlined
def copy_wrapped(out, o, array, start, length, spec):
    """Copy a block that continues at the beginning of the array."""
    end = spec.array_size - start
    copy_block(out, o, array, start, end)
    copy_block(out, o + end, array, ZERO, length - end)


@inlined
def copy_row_signed(source, key, table, entry, out, o):
    """Copy one row, whose starts begin at `entry`, with its signs."""
    array, spec, element = source.array, source.spec, ZERO
    for block in range(spec.num_blocks):
        start, length = source.starts[entry + block], block_length(block, spec)
        end = min(length, spec.array_size - start)
        copy_signed(out, o + element, array, start, end, (key, table, element), spec)
        if end < length:
            rest = element + end
            copy_signed(out, o + rest, array, ZERO, length - end, (key, table, rest), spec)
        element += length


class Span(NamedTuple):
    """Neighbouring blocks, or rows, to copy, and those to prefetch meanwhile."""

    entry: np.uint64  # where their starts begin
    size: np.uint64  # how many
    ahead: np.uint64  # where the starts of those to prefetch begin
    num_ahead: np.uint64


@inner
def copy_blocks(source, span, length, out, o, streaming):
    """Copy blocks of equal length, side by side."""
    array, starts, entry = source.array, source.starts, span.entry
    if length == ONE:
        for k in range(span.size):
            out[o + k] = load_x1(array, starts[entry + k])
        return
    for k in range(span.size):
        if k < span.num_ahead:
            prefetch_block(array, starts[span.ahead + k], length)
        start = starts[entry + k]
        if start + length > source.spec.array_size:
            copy_wrapped(out, o, array, start, length, source.spec)
        elif streaming:
            stream_block(out, o, array, start, length)
        else:
            copy_block(out, o, array, start, length)
        o += length


@inlined
def copy_rows(source, span, out, o, streaming):
    """Copy rows, side by side."""
    spec, entry, ahead = source.spec, span.entry, span.ahead
    count, length = spec.num_blocks, min(spec.block_size, spec.embedding_dim)
    rest = spec.embedding_dim - (count - ONE) * length
    if rest == length:
        blocks = Span(entry, span.size * count, ahead, span.num_ahead * count)
        copy_blocks(source, blocks, length, out, o, streaming)
        return
    for row in range(span.size):
        full = count - ONE
        now = full if row < span.num_ahead else ZERO
        copy_blocks(source, Span(entry, full, ahead, now), length, out, o, streaming)
        entry, ahead, o = entry + full, ahead + full, o + full * length
        copy_blocks(source, Span(entry, ONE, ahead, ZERO), rest, out, o, streaming)
        entry, ahead, o = entry + ONE, ahead + ONE, o + rest


@inner
def lookup_rows(source, indices, row, last, entry, keep, tile, out, streaming):
    """Rows [row, last) of the output. Starts go to `entry` and on; two tiles, or all if `keep`."""
    starts, spec = source.starts, source.spec
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
                copy_row_signed(source, key, table, place, out, o)
                o += spec.embedding_dim
        else:
            copy_rows(source, Span(entry, middle - row, after, end - middle), out, o, streaming)
        row = middle
        entry, after = after, after + size if keep else entry


@jit(parallel=True)
def lookup(array, starts, spec, indices, keep, tile, out, num_workers):
    """out (n * d,) of indices (n,); one iteration owns a worker's rows.

    starts are (n * num_blocks,) if they are kept, else scratch for two tiles per worker.
    """
    streaming = streams(out, spec) and out.nbytes > STREAM_BYTES * num_workers
    for worker in prange(num_workers):
        first, last = share(indices.size, worker, num_workers)
        entry = (first if keep else np.uint64(2 * worker) * tile) * spec.num_blocks
        source = BlockSource(array, starts, spec)
        lookup_rows(source, indices, first, last, entry, keep, tile, out, streaming)
        fence()
