"""Stretches of bags' rows, which groups of lanes pool: see `pool.py`.

Positions and numbers are words: uint32 where that is enough, which halves the registers they take
and the instructions, else uint64.
"""

from typing import Any, NamedTuple

import numpy as np

from robe_numba.kernels.gpu.bag_reads import LANES, reads_of
from robe_numba.kernels.gpu.compiler import SIMULATED, function
from robe_numba.kernels.gpu.intrinsics import load1, load4, multiply, store1, store4
from robe_numba.kernels.gpu.lookup import with_sign
from robe_numba.kernels.scalar.bags import MEAN
from robe_numba.kernels.scalar.hashing import NO_START, block_start, row_key, sign_window
from robe_numba.kernels.scalar.unsigned import THREE, TWO

COUNT, TABLE, BLOCK = 0, 1, 2  # what each thread notes of its stretch in shared memory


class Form(NamedTuple):
    """What a kernel is compiled for: what is not needed would cost registers and instructions."""

    largest: bool  # maxima instead of sums
    vectors: bool  # elements are read and written four at a time, see `gather.in_vectors`
    sign: bool
    weighted: bool
    padded: bool
    narrow: bool  # all places and numbers have 32 bits
    lanes: int  # that pool a stretch, a power of two
    columns: int  # of each lane
    step: int  # between a lane's columns

    @property
    def reads(self) -> int:
        """How many reads a lane waits for at a time."""
        return 2 if SIMULATED else 4 if self.vectors else 8

    @property
    def window(self) -> int:
        """How many reads of a stretch are hashed at a time."""
        return max(self.lanes, self.reads)


class Stretch(NamedTuple):
    """What a group of lanes pools."""

    first: Any  # read of the bag
    count: Any  # reads
    table: Any
    block: Any
    column: Any  # first, of the block
    length: Any  # of the block; 0 if there is no such stretch
    target: Any  # place of the block in the output


class Slots(NamedTuple):
    """What the lanes of a group tell each other of the next reads."""

    begins: Any  # where their blocks begin; the lower half of NO_START for padding and no read
    windows: Any  # signs of their columns
    scales: Any  # weights


@function
def stretch_of(number, bags, spec, form, word):
    """The stretch of a number; those of one bag are neighbours."""
    zero, one, width = word(0), word(1), word(form.lanes * form.columns)
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
        if column < length:
            low, high = reads_of(np.uint64(bag), bags)
            first, last = word(low), word(high)
    return Stretch(first, word(last - first), table, block, column, length, target)


@function
def most_reads(thread, notes, form, word):
    """The most reads that a group of the warp has: all take as many turns."""
    most, other = word(0), word(thread - thread % word(LANES))
    end = word(other + word(LANES))
    while other < end:
        most = max(most, notes[COUNT, other])
        other = word(other + word(form.lanes))
    return most


@function
def hash_read(number, stretch, table, block, bags, spec, starts, slots, slot, form, word):
    """Fill a slot for a read, given its number in the bag."""
    begin = word(NO_START)
    if number < stretch.count:
        read = np.uint64(stretch.first + number)
        index, start = np.uint64(bags.indices[read]), NO_START
        if not form.padded or index != bags.padding_idx:
            key = row_key(index, spec)
            start = block_start(key, table, block, spec)
            begin = word(start)
            if form.sign:
                element = block * spec.block_size + np.uint64(stretch.column)
                slots.windows[slot] = sign_window(key, table, element, spec)
        if form.weighted:
            slots.scales[slot] = bags.weights[read]
        if starts.size and stretch.column == word(0):
            starts[read * spec.num_blocks + block] = start
    slots.begins[slot] = begin


@function
def load(array, begin, places, size, values, v, form, word):
    """values[v:] = a lane's columns of a read; without branches, which would keep the loads of
    several reads apart.
    """
    zero, one, real = word(0), word(1), values.dtype.type
    start = begin if begin != word(NO_START) else zero
    if form.vectors:
        p = word(start + places[zero])
        p = np.uint64(min(p, word(p - size)))  # the array is circular
        values[v], values[v + one], values[v + TWO], values[v + THREE] = load4(array, p, real)
    else:
        c = zero
        while c < word(form.columns):
            p = word(start + places[c])
            values[v + c] = load1(array, np.uint64(min(p, word(p - size))), real)
            c = word(c + one)


@function
def pool_read(slots, slot, read, own, values, v, totals, winners, form, word):
    """Add values[v:] to the totals of a lane, or raise its maxima."""
    present, c, one = slots.begins[slot] != word(NO_START), word(0), word(1)
    while c < word(form.columns):
        value = values[v + c]
        if form.sign:
            value = with_sign(value, slots.windows[slot], np.uint64(own + c * word(form.step)))
        if form.weighted:
            value = multiply(slots.scales[slot], value)
        if form.largest:
            best = totals[c]
            larger = winners[c] < 0 or value > best or (value != value and best == best)
            if present and larger:
                totals[c], winners[c] = value, np.int64(read)
        else:  # a 0 more changes nothing: no total is -0.0
            totals[c] += value if present else values.dtype.type(0)
        c = word(c + one)


@function
def write(totals, winners, count, own, stretch, bags, out, chosen, form, word):
    """Write a lane's columns, given how many reads its bag has without padding."""
    zero, one = word(0), word(1)
    c = zero
    if bags.mode == MEAN:
        while c < word(form.columns):
            totals[c] /= out.dtype.type(max(count, one))
            c = word(c + one)
    target, column, c = np.uint64(stretch.target), word(stretch.column + own), zero
    if form.vectors and column < stretch.length:
        values = (totals[zero], totals[one], totals[TWO], totals[THREE])
        store4(out, target + np.uint64(column), values)
    while c < word(form.columns):
        if column < stretch.length:
            if not form.vectors:
                store1(out, target + np.uint64(column), totals[c])
            if form.largest and chosen.size:
                chosen[target + np.uint64(column)] = winners[c]
        column, c = word(column + word(form.step)), word(c + one)
