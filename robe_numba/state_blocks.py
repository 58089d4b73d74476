"""Adagrad's sums of squares: one for each element of the array, or for each block of neighbours."""

from typing import Any

from robe_numba.spec import Spec, check_int

MAX_STATE_BLOCK = 4096


def check_state_block(state_block: Any) -> int:
    """Require a size for the blocks of neighbouring elements that share one of Adagrad's sums.

    A power of two, so that the ranges that workers own, which are powers of two long, never divide
    a block, and an element's sum is found by a shift. At most 4096: a whole block is visited when
    one of its elements was read, and blocks up to that size stay in a core's first-level cache.

    Parameters
    ----------
    state_block : int
        Elements.

    Returns
    -------
    int
        The same, as Python's own.

    Raises
    ------
    TypeError, ValueError
        The value is not an integer, or breaks these rules.
    """
    size = check_int("state_block", state_block, 1, MAX_STATE_BLOCK)
    if size & (size - 1):
        below = 1 << (size.bit_length() - 1)
        raise ValueError(
            f"state_block is {size}; it must be a power of two, at most {MAX_STATE_BLOCK}: use "
            f"{below} or {2 * below}"
        )
    return size


def state_block_of(spec: Spec) -> int:
    """The state block that suits a spec: the largest power of two <= min(Z, d), at most 4096.

    Elements that are read together then share a sum with few others. For a plain table, whose Z is
    d, this is row-wise Adagrad if d is a power of two.
    """
    return state_block_for(min(spec.block_size, spec.embedding_dim))


def state_block_for(length: int) -> int:
    """As `state_block_of`, for min(Z, d) elements that are read together."""
    return min(1 << (length.bit_length() - 1), MAX_STATE_BLOCK)


def num_sums(array_size: int, state_block: int) -> int:
    """The number of sums of an array, ceil(m / state_block); the last may have fewer elements."""
    return -(-array_size // state_block)


def check_state_shape(state_sum: Any, array_size: int, state_block: int) -> None:
    """Require one sum for each state block; ValueError otherwise."""
    expected = (num_sums(array_size, state_block),)
    if tuple(state_sum.shape) != expected:
        raise ValueError(
            f"state_sum has shape {tuple(state_sum.shape)}; expected {expected}, a sum for every "
            f"state_block = {state_block} of the array's {array_size} elements: begin with zeros "
            f"of that shape, or pass the state_block that it was made for"
        )
