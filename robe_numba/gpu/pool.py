"""Pooling bags on the GPU: a thread for each element of the output.

Neighbouring threads read neighbouring elements of the array. What is added up, and in which order,
is what the CPU adds up, so the bits are equal.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import cuda

from robe_numba.gpu.device import SIMULATED, device_spec
from robe_numba.gpu.gather import in_vectors, place, signed
from robe_numba.gpu.vector import load1, load4, multiply, store4
from robe_numba.hashing import NOWHERE, block_start, row_key
from robe_numba.spec import Spec
from robe_numba.unsigned import ONE, THREE, TWO, U4, ZERO

THREADS = 32 if SIMULATED else 256  # of a thread block
SUM, MEAN, MAX = 0, 1, 2


class Bags(NamedTuple):
    """The bags of a call; offsets that are out of place read less, never other memory."""

    indices: Any  # (n,)
    offsets: Any  # (num_tables * batch + 1,)
    weights: Any  # (n,) of the output's dtype; (0,) for 1
    batch: np.uint64
    mode: int
    padded: bool
    padding_idx: np.uint64  # read only where padded


@cuda.jit(device=True)
def reads_of(bag, bags):
    """First read of a bag, and the one after its last."""
    num_reads = np.uint64(bags.indices.size)
    first = min(np.uint64(bags.offsets[bag]), num_reads)
    return first, min(np.uint64(bags.offsets[bag + ONE]), num_reads)


@cuda.jit(device=True)
def is_padding(read, bags):
    """Whether a read is left out of its bag."""
    return bags.padded and np.uint64(bags.indices[read]) == bags.padding_idx


@cuda.jit(device=True)
def table_of(read, bags, num_tables):
    """The table of a read: the last whose bags begin at it or before."""
    low, high = ZERO, num_tables
    while high - low > ONE:
        middle = (low + high) >> ONE
        if np.uint64(bags.offsets[middle * bags.batch]) <= read:
            low = middle
        else:
            high = middle
    return low


@cuda.jit
def bag_starts(bags, spec, starts):
    """starts (n * num_blocks,) of all reads."""
    number = np.uint64(cuda.grid(1))
    if number < np.uint64(starts.size):
        read, block = number // spec.num_blocks, number % spec.num_blocks
        start = NOWHERE
        if not is_padding(read, bags):
            key = row_key(np.uint64(bags.indices[read]), spec)
            start = block_start(key, table_of(read, bags, spec.num_tables), block, spec)
        starts[number] = start


@cuda.jit(device=True)
def element_at(array, indices, read, row, column, spec, starts, real):
    """Element of the array that a read adds to a column of its row of the output, with its sign."""
    block = column // spec.block_size
    start = starts[read * spec.num_blocks + block]
    value = load1(array, place(start, column - block * spec.block_size, spec), real)
    if spec.sign:
        key = row_key(np.uint64(indices[read]), spec)
        value = signed(value, key, row % spec.num_tables, column, spec)
    return value


@cuda.jit(device=True)
def term_of(array, read, last, row, column, bags, spec, starts, real):
    """What a read adds to an element of a bag that ends at `last`; 0 if it is not one of it."""
    if read >= last or is_padding(read, bags):
        return real(0)
    value = element_at(array, bags.indices, read, row, column, spec, starts, real)
    return multiply(bags.weights[read], value) if bags.weights.size else value


@cuda.jit(device=True)
def size_of(first, last, bags):
    """How many of a bag's reads [first, last) are not padding."""
    count = last - first
    if bags.padded:
        for read in range(first, last):
            if is_padding(np.uint64(read), bags):
                count -= ONE
    return count


@cuda.jit
def pool_sums(array, bags, spec, starts, out):
    """out (batch * num_tables * d,): sum or mean of each bag, four reads under way at a time."""
    number = np.uint64(cuda.grid(1))
    if number < np.uint64(out.size):
        dim, real = spec.embedding_dim, out.dtype.type
        row, column = number // dim, number % dim
        bag = row % spec.num_tables * bags.batch + row // spec.num_tables
        first, last = reads_of(bag, bags)
        where = (last, row, column, bags, spec, starts, real)
        total = real(0)
        for read in range(first, last, U4):
            read = np.uint64(read)
            v_0 = term_of(array, read, *where)
            v_1 = term_of(array, read + ONE, *where)
            v_2 = term_of(array, read + TWO, *where)
            v_3 = term_of(array, read + THREE, *where)
            # One after the other, as in the bag; a 0 more changes nothing.
            total = total + v_0 + v_1 + v_2 + v_3
        if bags.mode == MEAN:
            total /= real(max(size_of(first, last, bags), ONE))
        out[number] = total


@cuda.jit(device=True)
def vector_of(array, read, last, column, bags, spec, starts, real):
    """As `term_of`, four elements from an aligned place on, without signs."""
    zero, one = real(0), real(1)
    if read >= last or is_padding(read, bags):
        return zero, zero, zero, zero
    block = column // spec.block_size
    start = starts[read * spec.num_blocks + block]
    a, b, c, d = load4(array, place(start, column - block * spec.block_size, spec), real)
    weight = bags.weights[read] if bags.weights.size else one
    return multiply(weight, a), multiply(weight, b), multiply(weight, c), multiply(weight, d)


@cuda.jit
def pool_sums_vectors(array, bags, spec, starts, out):
    """As `pool_sums`, a thread for every four elements; where `gather.in_vectors` allows it."""
    number = np.uint64(cuda.grid(1)) * U4
    if number < np.uint64(out.size):
        dim, real = spec.embedding_dim, out.dtype.type
        row, column = number // dim, number % dim
        bag = row % spec.num_tables * bags.batch + row // spec.num_tables
        first, last = reads_of(bag, bags)
        where = (last, column, bags, spec, starts, real)
        t_0, t_1, t_2, t_3 = real(0), real(0), real(0), real(0)
        for read in range(first, last, TWO):
            read = np.uint64(read)
            u_0, u_1, u_2, u_3 = vector_of(array, read, *where)
            v_0, v_1, v_2, v_3 = vector_of(array, read + ONE, *where)
            t_0, t_1, t_2, t_3 = t_0 + u_0 + v_0, t_1 + u_1 + v_1, t_2 + u_2 + v_2, t_3 + u_3 + v_3
        if bags.mode == MEAN:
            count = real(max(size_of(first, last, bags), ONE))
            t_0, t_1, t_2, t_3 = t_0 / count, t_1 / count, t_2 / count, t_3 / count
        store4(out, number, (t_0, t_1, t_2, t_3))


@cuda.jit
def pool_maxima(array, bags, spec, starts, out, winners):
    """out and winners (batch * num_tables * d,): each element's maximum and the read that gave it.

    Ties go to the first read; an empty bag gives 0 and the winner -1. A NaN wins over numbers, and
    nothing over it.
    """
    number = np.uint64(cuda.grid(1))
    if number < np.uint64(out.size):
        dim, real = spec.embedding_dim, out.dtype.type
        row, column = number // dim, number % dim
        bag = row % spec.num_tables * bags.batch + row // spec.num_tables
        first, last = reads_of(bag, bags)
        best, winner = real(0), np.int64(-1)
        for read in range(first, last):
            read = np.uint64(read)
            if not is_padding(read, bags):
                value = element_at(array, bags.indices, read, row, column, spec, starts, real)
                if winner < 0 or value > best or (value != value and best == best):
                    best, winner = value, np.int64(read)
        out[number] = best
        winners[number] = winner


@cuda.jit
def expand(bags, spec, rows, scales):
    """The output row of every read, and for the mean its factor: (n,), scales else (0,)."""
    bag = np.uint64(cuda.grid(1))
    if bag + ONE < np.uint64(bags.offsets.size):
        first, last = reads_of(bag, bags)
        row = bag % bags.batch * spec.num_tables + bag // bags.batch
        count = 0
        for read in range(first, last):
            rows[read] = row
            if not is_padding(np.uint64(read), bags):
                count += 1
        if bags.mode == MEAN:
            for read in range(first, last):
                scales[read] = scales.dtype.type(1) / scales.dtype.type(max(count, 1))


def launch(work: Any, kernel: Any, count: int, bags: Bags, spec: Spec, *arguments: Any) -> None:
    """Run a kernel of this module, but those that pool, with a thread for each of `count`."""
    if count:
        grid = -(-count // THREADS)
        kernel[grid, THREADS, work.stream](bags, device_spec(spec), *arguments)


def pool(
    work: Any, array: Any, bags: Bags, spec: Spec, starts: Any, out: Any, winners: Any
) -> None:
    """Fill out (batch * num_tables * d,) and for MAX winners, given the starts of all reads."""
    if out.size == 0:
        return
    constants = (array, bags, device_spec(spec), starts, out)
    grid = -(-out.size // THREADS)
    if bags.mode == MAX:
        pool_maxima[grid, THREADS, work.stream](*constants, winners)
    elif in_vectors(spec, array, out):
        pool_sums_vectors[-(-grid // 4), THREADS, work.stream](*constants)
    else:
        pool_sums[grid, THREADS, work.stream](*constants)
