"""What kernels do with one block: copy it, add it, prefetch it.

Blocks have any length; vectors take as much of them as they can. Arrays are indexed flat. Callers
split blocks at the circular end: nothing here leaves the array.
"""

from typing import NamedTuple

import numpy as np

from robe_numba._jit import inlined
from robe_numba.kernels.cpu.simd.types import (
    load_x1,
    load_x4,
    load_x8,
    load_x16,
    negate_lanes,
    prefetch,
    prefetch_step,
    prefetch_write,
    store,
    stream,
)
from robe_numba.kernels.scalar.hashing import HashSpec, sign_word
from robe_numba.kernels.scalar.unsigned import ONE, U4, U8, U15, U16, U63, ZERO
from robe_numba.kernels.scalar.update_rules import axpy

GROUP = np.uint64(64)  # elements that share a sign word


class BlockSource(NamedTuple):
    """What embeddings are read from; made within kernels, as `prange` takes no nested tuples."""

    array: np.ndarray  # (m,), of a real dtype or the bits of halves
    starts: np.ndarray  # uint64, where the blocks of rows or reads begin; some kernels fill it
    spec: HashSpec


@inlined
def block_length(block, spec):
    """Elements of a row's block; the last may be partial."""
    first = block * spec.block_size
    return min(spec.block_size, spec.embedding_dim - first)


@inlined
def sign_bits(key, table, element, spec):
    """Signs of `element` and of the 15 after it, from bit 0 on; 1 is minus."""
    shift = element & U63
    bits = sign_word(key, table, element, spec) >> shift
    following = element + GROUP - shift  # the first element of the next group
    if shift > GROUP - U16 and following < spec.embedding_dim:
        bits |= sign_word(key, table, following, spec) << (GROUP - shift)
    return bits


@inlined
def prefetch_block(array, start, length):
    """Ask for the cache lines of array[start:start + length]."""
    for j in range(ZERO, length, prefetch_step(array)):
        prefetch(array, start + j)
    prefetch(array, start + length - ONE)


@inlined
def prefetch_write_block(array, start, length):
    """As `prefetch_block`, for elements that are about to be written."""
    for j in range(ZERO, length, U16):
        prefetch_write(array, start + j)
    prefetch_write(array, start + length - ONE)


@inlined
def copy_block(out, o, array, start, length):
    """out[o:o + length] = array[start:start + length]."""
    # The last vector overlaps the one before it, so that nothing is left for scalars.
    if length >= U16:
        for j in range(ZERO, length - U15, U16):
            store(out, o + j, load_x16(array, start + j))
        rest = length - U16
        if length & U15:
            store(out, o + rest, load_x16(array, start + rest))
    elif length >= U8:
        rest = length - U8
        store(out, o, load_x8(array, start))
        store(out, o + rest, load_x8(array, start + rest))
    elif length >= U4:
        rest = length - U4
        store(out, o, load_x4(array, start))
        store(out, o + rest, load_x4(array, start + rest))
    else:
        for j in range(length):
            store(out, o + j, load_x1(array, start + j))


@inlined
def stream_block(out, o, array, start, length):
    """As `copy_block`, bypassing the caches, for lengths and addresses that `streams` allows."""
    if length == U8:
        stream(out, o, load_x8(array, start))
    else:
        for j in range(ZERO, length, U16):
            stream(out, o + j, load_x16(array, start + j))


@inlined
def copy_signed(out, o, array, start, length, signs, spec):
    """As `copy_block`, with the signs of a row's elements: of (key, table, first element)."""
    key, table, element = signs
    j = ZERO
    while j + U16 <= length:
        bits = sign_bits(key, table, element + j, spec)
        store(out, o + j, negate_lanes(load_x16(array, start + j), bits))
        j += U16
    if j < length:
        bits = sign_bits(key, table, element + j, spec)
        while j + U4 <= length:
            store(out, o + j, negate_lanes(load_x4(array, start + j), bits))
            bits >>= U4
            j += U4
        while j < length:
            store(out, o + j, negate_lanes(load_x1(array, start + j), bits))
            bits >>= ONE
            j += ONE


@inlined
def axpy_block(target, t, source, s, length, scale, alpha):
    """target[t:t + length] += alpha * (scale * source[s:s + length])."""
    j = ZERO
    while j + U16 <= length:
        grad = scale * load_x16(source, s + j)
        store(target, t + j, axpy(load_x16(target, t + j), grad, alpha))
        j += U16
    if j + U8 <= length:
        grad = scale * load_x8(source, s + j)
        store(target, t + j, axpy(load_x8(target, t + j), grad, alpha))
        j += U8
    if j + U4 <= length:
        grad = scale * load_x4(source, s + j)
        store(target, t + j, axpy(load_x4(target, t + j), grad, alpha))
        j += U4
    while j < length:
        grad = scale * load_x1(source, s + j)
        target[t + j] = axpy(target[t + j], grad, alpha)
        j += ONE


@inlined
def axpy_signed(target, t, source, s, length, scale, alpha, signs, spec):
    """As `axpy_block`, with the signs of a row's elements: of (key, table, first element)."""
    key, table, element = signs
    j = ZERO
    while j + U16 <= length:
        bits = sign_bits(key, table, element + j, spec)
        grad = scale * negate_lanes(load_x16(source, s + j), bits)
        store(target, t + j, axpy(load_x16(target, t + j), grad, alpha))
        j += U16
    if j < length:
        bits = sign_bits(key, table, element + j, spec)
        while j + U4 <= length:
            grad = scale * negate_lanes(load_x4(source, s + j), bits)
            store(target, t + j, axpy(load_x4(target, t + j), grad, alpha))
            bits >>= U4
            j += U4
        while j < length:
            grad = scale * negate_lanes(load_x1(source, s + j), bits)
            target[t + j] = axpy(target[t + j], grad, alpha)
            bits >>= ONE
            j += ONE
