"""Bags of rows: pooled reading, and what the backward pass must know of each read.

Bags are CSR and table-major: bag t * batch + b holds indices[offsets[bag]:offsets[bag + 1]] and is
pooled into out[b, t], which is row b * num_tables + t of the flat output.
"""

from typing import NamedTuple

import numpy as np
from numba import prange

from robe_numba._jit import jit
from robe_numba.cpu.lookup import copy_row
from robe_numba.cpu.runs import apply_sign, block_bounds, next_run
from robe_numba.hashing import block_start, row_key

SUM, MEAN, MAX = 0, 1, 2
SKIPPED = np.uint64(2**64 - 1)  # the row of a padded index


class Bags(NamedTuple):
    """The bags of one call, as kernels read them."""

    indices: np.ndarray  # uint64 (n,)
    offsets: np.ndarray  # int64 (num_tables * batch + 1,)
    weights: np.ndarray  # dtype of the array (n,), or (0,) for none
    batch: int
    mode: int  # SUM, MEAN or MAX
    padded: bool
    padding_idx: np.uint64  # read only where padded


@jit
def output_row(bag, bags, spec):
    """Row of the flat output that a bag is pooled into."""
    table, sample = bag // bags.batch, bag % bags.batch
    return np.uint64(sample) * spec.num_tables + np.uint64(table)


@jit
def is_padding(index, bags):
    """Whether an index is left out of its bag."""
    return bags.padded and index == bags.padding_idx


@jit
def add_row(array, key, table, spec, scale, out):
    """out (d,) += scale * the embedding of a key."""
    for block in range(spec.num_blocks):
        start = block_start(key, table, block, spec)
        first, last = block_bounds(block, spec)
        element = first
        while element < last:
            position, length, signs = next_run(start, first, element, last, key, table, spec)
            if spec.sign:
                for j in range(length):
                    value = apply_sign(array[position + j], signs, element + j)
                    out[element + j] += scale * value
            else:
                for j in range(length):
                    out[element + j] += scale * array[position + j]
            element += length


@jit
def maximum_row(array, key, table, spec, reader, out, winners):
    """out (d,) = max(out, embedding); winners (d,) become `reader` where it is larger, or NaN."""
    for block in range(spec.num_blocks):
        start = block_start(key, table, block, spec)
        first, last = block_bounds(block, spec)
        element = first
        while element < last:
            position, length, signs = next_run(start, first, element, last, key, table, spec)
            for j in range(length):
                value = array[position + j]
                if spec.sign:
                    value = apply_sign(value, signs, element + j)
                # A NaN is passed on, as by NumPy: it wins over numbers, and nothing over it.
                best = out[element + j]
                if value > best or (value != value and best == best):
                    out[element + j] = value
                    winners[element + j] = reader
            element += length


@jit(parallel=True)
def pool(array, bags, spec, out):
    """out (batch * num_tables, d): sum or mean of each bag; one iteration owns one bag."""
    one = array.dtype.type(1)
    for bag in prange(bags.offsets.size - 1):
        row = output_row(bag, bags, spec)
        table = row % spec.num_tables
        pooled = out[row]
        pooled[:] = 0
        count = 0
        for i in range(bags.offsets[bag], bags.offsets[bag + 1]):
            index = bags.indices[i]
            if is_padding(index, bags):
                continue
            scale = bags.weights[i] if bags.weights.size else one
            add_row(array, row_key(index, spec), table, spec, scale, pooled)
            count += 1
        if bags.mode == MEAN and count > 1:
            for j in range(pooled.size):
                pooled[j] /= array.dtype.type(count)


@jit(parallel=True)
def pool_max(array, bags, spec, out, winners):
    """out and winners (batch * num_tables, d): each element's maximum and the read that gave it.

    Ties go to the first read; an empty bag gives 0 and the winner -1. One iteration owns one bag.
    """
    for bag in prange(bags.offsets.size - 1):
        row = output_row(bag, bags, spec)
        table = row % spec.num_tables
        pooled, winner = out[row], winners[row]
        pooled[:] = 0
        winner[:] = -1
        empty = True
        for i in range(bags.offsets[bag], bags.offsets[bag + 1]):
            index = bags.indices[i]
            if is_padding(index, bags):
                continue
            key = row_key(index, spec)
            if empty:
                copy_row(array, key, table, spec, pooled)
                winner[:] = i
                empty = False
            else:
                maximum_row(array, key, table, spec, i, pooled, winner)


@jit(parallel=True)
def expand(bags, spec, rows, scales):
    """The output row and the factor of every read, both (n,); one iteration owns one bag."""
    for bag in prange(bags.offsets.size - 1):
        row = output_row(bag, bags, spec)
        count = 0
        for i in range(bags.offsets[bag], bags.offsets[bag + 1]):
            rows[i] = SKIPPED if is_padding(bags.indices[i], bags) else row
            count += rows[i] != SKIPPED
            scales[i] = bags.weights[i] if bags.weights.size else scales.dtype.type(1)
        if bags.mode == MEAN and count > 1:
            for i in range(bags.offsets[bag], bags.offsets[bag + 1]):
                scales[i] = scales.dtype.type(1) / scales.dtype.type(count)
