"""Stretches of bags' rows, each pooled by a group of lanes; see `bags.py`.

Positions and counts are words: uint32 where that is enough, which halves their registers and
instructions, else uint64.
"""

from typing import Any, NamedTuple

import numpy as np

from robe_numba.kernels.gpu.bag_reads import reads_of
from robe_numba.kernels.gpu.compiler import function
from robe_numba.kernels.gpu.intrinsics import (
    load_x1,
    load_x4,
    multiply_rounded,
    stream_x1,
    stream_x4,
)
from robe_numba.kernels.gpu.launch import LANES
from robe_numba.kernels.gpu.lookup import with_sign
from robe_numba.kernels.scalar.bags import MAX
from robe_numba.kernels.scalar.hashing import NO_START, block_start, row_key, sign_window
from robe_numba.kernels.scalar.unsigned import THREE, TWO

COUNT, TABLE, BLOCK = 0, 1, 2  # what each thread keeps of its stretch in shared memory


class PoolVariant(NamedTuple):
    """What a kernel is compiled for. Anything more would cost registers and instructions."""

    largest: bool  # maxima instead of sums
    mixed: bool  # some tables take maxima, others do not; then only one kind is pooled
    vectors: bool  # elements are read and written four at a time, see `lookup.in_vectors`
    sign: bool
    weighted: bool
    padded: bool
    narrow: bool  # 32 bits hold all positions and counts
    lanes: int  # that pool a stretch, a power of two
    columns: int  # of each lane
    step: int  # between a lane's columns
    reads: int  # that a lane waits for at a time

    @property
    def window(self) -> int:
        """Reads of a stretch that are hashed at a time."""
        return max(self.lanes, self.reads)


class Stretch(NamedTuple):
    """Neighbouring columns of a block of a bag's row, pooled by a group of lanes."""

    first: Any  # read of the bag
    count: Any  # reads
    table: Any
    block: Any
    column: Any  # first, of the block
    length: Any  # of the block; 0 if there is no such stretch
    target: Any  # where the block begins in the output


class Slots(NamedTuple):
    """What the lanes of a group share of the next reads."""

    begins: Any  # where their blocks begin; the lower half of NO_START for padding and no read
    windows: Any  # signs of their columns
    scales: Any  # weights


class Lane(NamedTuple):
    """What a lane keeps of its columns, in registers."""

    own: Any  # its first column, from the stretch's on
    places: Any  # of its columns in the block
    values: Any  # of its columns, for the next reads
    totals: Any  # sums, or maxima
    best_reads: Any  # of the maxima


@function
def stretch_of(number, bags, spec, variant, word):
    """The stretch with a number; those of a bag have neighbouring numbers."""
    zero, one, width = word(0), word(1), word(variant.lanes * variant.columns)
    longest, dim = word(min(spec.block_size, spec.embedding_dim)), word(spec.embedding_dim)
    per_block, num_blocks = word((longest + width - one) // width), word(spec.num_blocks)
    bag, block, column = number, zero, zero
    if word(num_blocks * per_block) > one:
        blocks = word(number // per_block)
        bag = word(blocks // num_blocks)
        block = word(blocks - bag * num_blocks)
        column = word((number - blocks * per_block) * width)
    first = last = table = target = length = zero
    if bag < word(bags.offsets.size - 1):
        batch, num_tables = word(bags.batch), word(spec.num_tables)
        table = word(bag // batch)
        begin = word(block * word(spec.block_size))
        target = word(((bag - table * batch) * num_tables + table) * dim + begin)
        length = min(longest, word(dim - begin))
        if variant.mixed and (bags.modes[table] == MAX) != variant.largest:
            length = zero
        if column < length:
            low, high = reads_of(np.uint64(bag), bags)
            first, last = word(low), word(high)
    return Stretch(first, word(last - first), table, block, column, length, target)


@function
def most_reads(thread, shared, variant, word):
    """The most reads that a group of the warp has; all groups take as many turns."""
    most, other = word(0), word(thread - thread % word(LANES))
    end = word(other + word(LANES))
    while other < end:
        most = max(most, shared[COUNT, other])
        other = word(other + word(variant.lanes))
    return most


@function
def hash_read(number, stretch, table, block, bags, spec, starts, slots, slot, variant, word):
    """Hash a read, given its number in the bag, into a slot."""
    begin = word(NO_START)
    if number < stretch.count:
        read = np.uint64(stretch.first + number)
        index, start = np.uint64(bags.indices[read]), NO_START
        if not variant.padded or index != bags.padding_idx:
            key = row_key(index, spec)
            start = block_start(key, table, block, spec)
            begin = word(start)
            if variant.sign:
                element = block * spec.block_size + np.uint64(stretch.column)
                slots.windows[slot] = sign_window(key, table, element, spec)
        if variant.weighted:
            slots.scales[slot] = bags.weights[read]
        if starts.size and stretch.column == word(0):
            starts[read * spec.num_blocks + block] = start
    slots.begins[slot] = begin


@function
def clear(lane, stretch, variant, word):
    """Begin a stretch: find the places of a lane's columns, and make its totals 0."""
    zero, one = word(0), word(1)
    last = word(stretch.length - (word(variant.columns) if variant.vectors else one))
    c = zero
    while c < word(variant.columns):
        # A column beyond the block is read as its last one, and not written.
        lane.places[c] = min(word(stretch.column + lane.own + c * word(variant.step)), last)
        lane.totals[c] = 0
        if variant.largest:
            lane.best_reads[c] = -1
        c = word(c + one)


@function
def load(array, begin, size, lane, v, variant, word):
    """lane.values[v:] = its columns of a read.

    There are no branches, so that the loads of several reads are in flight together.
    """
    values, places = lane.values, lane.places
    zero, one, real = word(0), word(1), values.dtype.type
    start = begin if begin != word(NO_START) else zero
    if variant.vectors:
        p = word(start + places[zero])
        p = np.uint64(min(p, word(p - size)))  # the array is circular
        values[v], values[v + one], values[v + TWO], values[v + THREE] = load_x4(array, p, real)
    else:
        c = zero
        while c < word(variant.columns):
            p = word(start + places[c])
            values[v + c] = load_x1(array, np.uint64(min(p, word(p - size))), real)
            c = word(c + one)


@function
def pool_read(slots, slot, read, lane, v, variant, word):
    """Add lane.values[v:] to a lane's totals, or raise its maxima."""
    own, values, totals, best_reads = lane.own, lane.values, lane.totals, lane.best_reads
    present, c, one = slots.begins[slot] != word(NO_START), word(0), word(1)
    while c < word(variant.columns):
        value = values[v + c]
        if variant.sign:
            value = with_sign(value, slots.windows[slot], np.uint64(own + c * word(variant.step)))
        if variant.weighted:
            value = multiply_rounded(slots.scales[slot], value)
        if variant.largest:
            best = totals[c]
            larger = best_reads[c] < 0 or value > best or (value != value and best == best)
            if present and larger:
                totals[c], best_reads[c] = value, np.int64(read)
        else:  # adding 0 changes nothing: no total is -0.0
            totals[c] += value if present else values.dtype.type(0)
        c = word(c + one)


@function
def pool_window(array, size, slots, slot, first, count, lane, kept, variant, word):
    """Pool `count` reads, from `first` on, which are in the slots from `slot` on.

    Returns `kept` and the number of reads that are not padding.
    """
    one, columns, reads = word(1), word(variant.columns), word(variant.reads)
    k = word(0)
    while k < count:
        r = word(0)
        while r < reads:
            load(array, slots.begins[slot + k + r], size, lane, r * columns, variant, word)
            r = word(r + one)
        r = word(0)
        while r < reads:
            read, i = first + k + r, slot + k + r
            pool_read(slots, i, read, lane, r * columns, variant, word)
            if variant.padded and slots.begins[i] != word(NO_START):
                kept = word(kept + one)
            r = word(r + one)
        k = word(k + reads)
    return kept


@function
def write(lane, count, stretch, mean, out, argmax, variant, word):
    """Write a lane's columns, for a mean divided by the number of reads without padding."""
    zero, one, totals = word(0), word(1), lane.totals
    c = zero
    if mean:
        while c < word(variant.columns):
            totals[c] /= out.dtype.type(max(count, one))
            c = word(c + one)
    target, column, c = np.uint64(stretch.target), word(stretch.column + lane.own), zero
    if variant.vectors and column < stretch.length:
        values = (totals[zero], totals[one], totals[TWO], totals[THREE])
        stream_x4(out, target + np.uint64(column), values)
    while c < word(variant.columns):
        if column < stretch.length:
            if not variant.vectors:
                stream_x1(out, target + np.uint64(column), totals[c])
            if variant.largest and argmax.size:
                argmax[target + np.uint64(column)] = lane.best_reads[c]
        column, c = word(column + word(variant.step)), word(c + one)
