"""Adagrad with one sum of squares for each block of neighbouring elements.

A block's sum is made from its gradients in an order that depends on its length alone, so its bits
do not depend on the range of the array that the block lies in, nor on how its reads were found.
"""

from robe_numba._jit import inlined, inner
from robe_numba.kernels.cpu.simd.reductions import any_moved, sum_of
from robe_numba.kernels.cpu.simd.types import (
    load_x1,
    load_x4,
    load_x16,
    store,
    where_moved,
    zero_like,
)
from robe_numba.kernels.scalar import update_rules
from robe_numba.kernels.scalar.unsigned import ONE, U4, U16, ZERO


@inlined
def has_moved(sums, s, length):
    """Whether one of sums[s:s + length] is not 0."""
    j = ZERO
    while j + U16 <= length:
        if any_moved(load_x16(sums, s + j)):
            return True
        j += U16
    while j < length:
        if sums[s + j] != 0:
            return True
        j += ONE
    return False


@inlined
def sum_of_squares(sums, s, length):
    """Of sums[s:s + length]: sixteen partial sums, then what is left by fours and ones."""
    total, j = sums.dtype.type(0), ZERO
    if length >= U16:
        grad = load_x16(sums, s)
        squares, j = grad * grad, U16
        while j + U16 <= length:
            grad = load_x16(sums, s + j)
            squares = squares + grad * grad
            j += U16
        total += sum_of(squares)
    while j + U4 <= length:
        grads = load_x4(sums, s + j)
        total += sum_of(grads * grads)
        j += U4
    while j < length:
        total += sums[s + j] * sums[s + j]
        j += ONE
    return total


@inlined
def apply_state_block(step, block, p, sums, s, length):
    """Apply the sums from s on, which become 0, to a whole state block, [p, p + length)."""
    array = step.array
    squares, count = sum_of_squares(sums, s, length), sums.dtype.type(length)
    step.state_sum[block] = update_rules.add_mean(step.state_sum[block], squares, count)
    rate = update_rules.adagrad_rate(step.state_sum[block], step.lr, step.eps)
    j = ZERO
    while j + U16 <= length:
        grad = load_x16(sums, s + j)
        if any_moved(grad):  # or cache lines of the array would be fetched for nothing
            old = load_x16(array, p + j)
            store(array, p + j, where_moved(grad, update_rules.sgd(old, grad, rate), old))
            store(sums, s + j, zero_like(grad))
        j += U16
    while j + U4 <= length:
        grads, olds = load_x4(sums, s + j), load_x4(array, p + j)
        store(array, p + j, where_moved(grads, update_rules.sgd(olds, grads, rate), olds))
        store(sums, s + j, zero_like(grads))
        j += U4
    while j < length:
        one, value = load_x1(sums, s + j), load_x1(array, p + j)
        store(array, p + j, where_moved(one, update_rules.sgd(value, one, rate), value))
        store(sums, s + j, zero_like(one))
        j += ONE


@inner
def apply_state_blocks(step, owned, sums, begin, end):
    """Apply the state blocks in which one of sums[begin:end] is not 0; their sums become 0.

    The range begins with a block and divides none. Where these sums are all 0, the block was
    applied before, or another piece that touches it will find the sum that is not.
    """
    shift = step.state_shift
    while begin < end:
        block = (owned.low + begin) >> shift
        first, following = (block << shift) - owned.low, ((block + ONE) << shift) - owned.low
        if has_moved(sums, begin, min(following, end) - begin):
            length = min(following, owned.size) - first
            apply_state_block(step, block, owned.low + first, sums, first, length)
        begin = following
