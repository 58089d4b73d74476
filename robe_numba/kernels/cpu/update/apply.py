"""Updating the elements of one piece: axpy for SGD and sums, and by complete sums for Adagrad."""

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
from robe_numba.kernels.scalar.bags import EVERY_READ
from robe_numba.kernels.scalar.hashing import row_key
from robe_numba.kernels.scalar.unsigned import ONE, U4, U16, ZERO

PART = np.uint64(256)  # elements that a sweep prefetches at a time


class UpdateStep(NamedTuple):
    """What an update writes, and its constants in the array's dtype; see `make_step`."""

    array: np.ndarray  # (m,)
    state_sum: np.ndarray  # (ceil(m / 2**state_shift),) for Adagrad; (0,) for SGD
    alpha: np.floating  # SGD adds alpha * gradient to the array
    lr: np.floating  # Adagrad's
    eps: np.floating
    state_shift: np.uint64  # 2**state_shift neighbouring elements share a sum of squares


def make_step(
    array: np.ndarray,
    state_sum: np.ndarray | None = None,
    lr: float | None = None,
    eps: float = 0,
    state_block: int = 1,
) -> UpdateStep:
    """A step of Adagrad with `state_sum`, else of SGD; without `lr` it adds the gradient itself."""
    real = array.dtype.type
    if state_sum is None:
        state_sum, state_block = array[:0], 1
    alpha, lr = (1, 0) if lr is None else (-lr, lr)
    shift = np.uint64(int(state_block).bit_length() - 1)
    return UpdateStep(array, state_sum, real(alpha), real(lr), real(eps), shift)


@inlined
def clip(piece, length, owned):
    """The part of a piece within the range, relative to it, and still with the bias."""
    return max(piece.place, owned.bias), min(piece.place + length, owned.bias + owned.size)


@inlined
def piece_length(grad, spec):
    """Elements of the block whose gradient begins at `grad`."""
    block = min(spec.block_size, spec.embedding_dim)
    if spec.embedding_dim % block == ZERO:
        return block
    return min(block, spec.embedding_dim - grad % spec.embedding_dim)


@inlined
def axpy_argmax(target, t, reads, read, g, length, alpha, signs, spec):
    """target[t:t + length] += alpha * gradient, where the read gave the maximum."""
    key, table, element = signs
    for j in range(length):
        if reads.argmax[g + j] == np.int64(read):
            grad = reads.grad_out[g + j]
            if spec.sign:
                grad = negate_lanes(grad, sign_bits(key, table, element + j, spec))
            target[t + j] = update_rules.axpy(target[t + j], grad, alpha)


@inner
def axpy_piece(target, base, piece, owned, reads, spec, alpha):
    """target += alpha * gradient, for the elements of a piece; the range begins at target[base]."""
    begin, end = clip(piece, piece_length(piece.grad, spec), owned)
    t, g, length = base + (begin - owned.bias), piece.grad + (begin - piece.place), end - begin
    scale = reads.scales[piece.read] if reads.scales.size else target.dtype.type(1)
    chosen = reads.argmax.size > 0 and reads.argmax[piece.grad] != EVERY_READ
    if spec.sign or chosen:
        row, element = g // spec.embedding_dim, g % spec.embedding_dim
        signs = (row_key(reads.indices[piece.read], spec), row % spec.num_tables, element)
        if chosen:
            axpy_argmax(target, t, reads, piece.read, g, length, alpha, signs, spec)
        else:
            axpy_signed(target, t, reads.grad_out, g, length, scale, alpha, signs, spec)
    else:
        axpy_block(target, t, reads.grad_out, g, length, scale, alpha)


@inlined
def plain_length(reads, spec):
    """The length of all pieces where all are equally long and added as they are, else 0."""
    block = min(spec.block_size, spec.embedding_dim)
    ragged = spec.embedding_dim % block != ZERO
    plain = not (ragged or spec.sign or reads.argmax.size or reads.scales.size)
    return block if plain else ZERO


@inlined
def axpy_any(target, base, piece, owned, reads, spec, alpha, plain):
    """As `axpy_piece`, shorter for pieces of the length `plain` within the range."""
    p = piece.place - owned.bias  # wraps around 2**64 where the piece begins before the range
    if plain and p <= owned.size - plain and plain <= owned.size:
        one = target.dtype.type(1)
        axpy_block(target, base + p, reads.grad_out, piece.grad, plain, one, alpha)
    else:
        axpy_piece(target, base, piece, owned, reads, spec, alpha)


@inlined
def adagrad_block(step, p, sums, s, length):
    """Apply the sums from s on, which become 0, to elements [p, p + length) of the array.

    Where a sum is 0 nothing moves: it was applied before, or nothing was read.
    """
    array, state_sum, lr, eps = step.array, step.state_sum, step.lr, step.eps
    j = ZERO
    while j + U16 <= length:
        grad, old = load_x16(sums, s + j), load_x16(array, p + j)
        old_sum = load_x16(state_sum, p + j)
        new, new_sum = update_rules.adagrad(old, old_sum, grad, lr, eps)
        store(array, p + j, where_moved(grad, new, old))
        store(state_sum, p + j, where_moved(grad, new_sum, old_sum))
        store(sums, s + j, zero_like(grad))
        j += U16
    while j + U4 <= length:
        grad, old, old_sum = load_x4(sums, s + j), load_x4(array, p + j), load_x4(state_sum, p + j)
        new, new_sum = update_rules.adagrad(old, old_sum, grad, lr, eps)
        store(array, p + j, where_moved(grad, new, old))
        store(state_sum, p + j, where_moved(grad, new_sum, old_sum))
        store(sums, s + j, zero_like(grad))
        j += U4
    while j < length:
        grad = sums[s + j]
        if grad != 0:
            array[p + j], state_sum[p + j] = update_rules.adagrad(
                array[p + j], state_sum[p + j], grad, lr, eps
            )
            sums[s + j] = 0
        j += ONE


@inlined
def adagrad_range(step, owned, sums):
    """Apply the sums of a whole range, which become 0."""
    for first in range(ZERO, owned.size, PART):
        prefetch_write_block(step.array, owned.low + first + PART, PART)
        length = min(PART, owned.size - first)
        if step.state_shift:  # a longer block moves at its first part in which something is not 0
            apply_state_blocks(step, owned, sums, first, first + length)
        else:
            adagrad_block(step, owned.low + first, sums, first, length)


@inlined
def adagrad_piece(step, owned, piece, sums, spec):
    """Apply the sums of the elements of a piece, which become 0."""
    begin, end = clip(piece, piece_length(piece.grad, spec), owned)
    s = begin - owned.bias
    if step.state_shift:
        apply_state_blocks(step, owned, sums, s, end - owned.bias)
    else:
        adagrad_block(step, owned.low + s, sums, s, end - begin)


@inlined
def prefetch_state(step, p, length):
    """Ask for elements [p, p + length) of the array, and for their sums of squares."""
    prefetch_block(step.array, p, length)
    if step.state_shift:
        prefetch(step.state_sum, p >> step.state_shift)
        prefetch(step.state_sum, (p + length - ONE) >> step.state_shift)
    else:
        prefetch_block(step.state_sum, p, length)
