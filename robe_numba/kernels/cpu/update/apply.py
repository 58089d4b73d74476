"""Moving the elements of one piece: by the SGD rule, and by complete sums for Adagrad."""

from typing import NamedTuple

import numpy as np

from robe_numba._jit import inlined, inner
from robe_numba.kernels.cpu.blocks import (
    axpy_block,
    axpy_signed,
    prefetch_block,
    prefetch_write_block,
    sign_bits,
)
from robe_numba.kernels.cpu.simd.types import (
    load_x4,
    load_x16,
    negate_lanes,
    prefetch,
    store,
    where_moved,
    zero_like,
)
from robe_numba.kernels.cpu.update.state_blocks import apply_state_blocks
from robe_numba.kernels.scalar import update_rules
from robe_numba.kernels.scalar.hashing import row_key
from robe_numba.kernels.scalar.unsigned import ONE, U4, U16, ZERO

PART = np.uint64(256)  # elements that a sweep claims at a time


class Reads(NamedTuple):
    """Every read of a batch and the gradient of what it went into."""

    indices: np.ndarray  # uint64 (n,)
    starts: np.ndarray  # uint64 (n * num_blocks,), NO_START where padded
    rows: np.ndarray  # uint64 (n,), row of grad_out; (0,) where read i is row i
    scales: np.ndarray  # (n,), factor of the read in its row; (0,) for 1
    argmax: np.ndarray  # int64 (num_rows * d,), the read that gave each maximum, or (0,)
    grad_out: np.ndarray  # (num_rows * d,)


class Rates(NamedTuple):
    """What a rule is given, in the dtype of the array; an SGD rate of -1 adds the gradient."""

    lr: np.floating
    eps: np.floating
    state_shift: np.uint64  # 2**state_shift neighbouring elements share a sum of squares


@inlined
def clip(place, length, size, bias):
    """The part of a piece within its range of `size` elements, still with the bias."""
    return max(place, bias), min(place + length, bias + size)


@inlined
def piece_length(grad, spec):
    """Elements of the block whose gradient begins there."""
    block = min(spec.block_size, spec.embedding_dim)
    if spec.embedding_dim % block == ZERO:
        return block
    return min(block, spec.embedding_dim - grad % spec.embedding_dim)


@inlined
def axpy_argmax(target, t, reads, read, g, length, lr, key, table, element, spec):
    """Move target[t:t + length] where the read gave the maximum."""
    for j in range(length):
        if reads.argmax[g + j] == np.int64(read):
            grad = reads.grad_out[g + j]
            if spec.sign:
                grad = negate_lanes(grad, sign_bits(key, table, element + j, spec))
            target[t + j] = update_rules.sgd(target[t + j], grad, lr)


@inner
def axpy_piece(target, base, read, grad, place, size, bias, reads, spec, lr):
    """Move the elements of a piece by the SGD rule; the range begins at target[base]."""
    begin, end = clip(place, piece_length(grad, spec), size, bias)
    t, g, length = base + (begin - bias), grad + (begin - place), end - begin
    scale = reads.scales[read] if reads.scales.size else target.dtype.type(1)
    if spec.sign or reads.argmax.size:
        row, element = g // spec.embedding_dim, g % spec.embedding_dim
        key, table = row_key(reads.indices[read], spec), row % spec.num_tables
        signs = (key, table, element, spec)
        if reads.argmax.size:
            axpy_argmax(target, t, reads, read, g, length, lr, *signs)
        else:
            axpy_signed(target, t, reads.grad_out, g, length, scale, lr, *signs)
    else:
        axpy_block(target, t, reads.grad_out, g, length, scale, lr)


@inlined
def is_plain(reads, spec):
    """Whether all pieces are equally long and added as they are."""
    ragged = spec.embedding_dim % min(spec.block_size, spec.embedding_dim) != ZERO
    return not (ragged or spec.sign or reads.argmax.size or reads.scales.size)


@inlined
def axpy_any(target, base, read, grad, place, size, bias, reads, spec, lr, plain, length):
    """As `axpy_piece`, in short for the `plain` piece of this length that its range contains."""
    p = place - bias  # wraps around 2**64 where the piece begins before the range
    if plain and p <= size - length and length <= size:
        one = target.dtype.type(1)
        axpy_block(target, base + p, reads.grad_out, grad, length, one, lr)
    else:
        axpy_piece(target, base, read, grad, place, size, bias, reads, spec, lr)


@inlined
def adagrad_block(array, state_sum, p, sums, s, length, rates):
    """Move array[p:p + length] by the sums from s on, which become 0.

    Where a sum is 0 nothing moves: it was applied before, or nothing was read.
    """
    j = ZERO
    while j + U16 <= length:
        grad, old, old_sum = (
            load_x16(sums, s + j),
            load_x16(array, p + j),
            load_x16(state_sum, p + j),
        )
        new, new_sum = update_rules.adagrad(old, old_sum, grad, rates.lr, rates.eps)
        store(array, p + j, where_moved(grad, new, old))
        store(state_sum, p + j, where_moved(grad, new_sum, old_sum))
        store(sums, s + j, zero_like(grad))
        j += U16
    while j + U4 <= length:
        grad, old, old_sum = load_x4(sums, s + j), load_x4(array, p + j), load_x4(state_sum, p + j)
        new, new_sum = update_rules.adagrad(old, old_sum, grad, rates.lr, rates.eps)
        store(array, p + j, where_moved(grad, new, old))
        store(state_sum, p + j, where_moved(grad, new_sum, old_sum))
        store(sums, s + j, zero_like(grad))
        j += U4
    while j < length:
        grad = sums[s + j]
        if grad != 0:
            array[p + j], state_sum[p + j] = update_rules.adagrad(
                array[p + j], state_sum[p + j], grad, rates.lr, rates.eps
            )
            sums[s + j] = 0
        j += ONE


@inlined
def adagrad_range(array, state_sum, low, size, sums, rates):
    """Move array[low:low + size] by its sums, which become 0."""
    for first in range(ZERO, size, PART):
        prefetch_write_block(array, low + first + PART, PART)
        length = min(PART, size - first)
        if rates.state_shift:  # a longer block moves at its first part in which something is not 0
            end = first + length
            apply_state_blocks(array, state_sum, low, size, sums, first, end, rates)
        else:
            adagrad_block(array, state_sum, low + first, sums, first, length, rates)


@inlined
def adagrad_piece(array, state_sum, low, sums, grad, place, size, bias, spec, rates):
    """Move the elements of a piece by their sums; the range begins at array[low]."""
    begin, end = clip(place, piece_length(grad, spec), size, bias)
    s = begin - bias
    if rates.state_shift:
        apply_state_blocks(array, state_sum, low, size, sums, s, end - bias, rates)
    else:
        adagrad_block(array, state_sum, low + s, sums, s, end - begin, rates)


@inlined
def prefetch_sums(array, state_sum, p, length, rates):
    """Ask for array[p:p + length] and the sums of squares of these elements."""
    prefetch_block(array, p, length)
    if rates.state_shift:
        prefetch(state_sum, p >> rates.state_shift)
        prefetch(state_sum, (p + length - ONE) >> rates.state_shift)
    else:
        prefetch_block(state_sum, p, length)
