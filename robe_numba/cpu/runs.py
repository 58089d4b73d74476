"""Runs: the pieces of a block that are contiguous in the array and share one sign word.

Every kernel that reads or writes embeddings walks blocks run by run, so that the circular end and
the signs are handled in this one place and the inner loops stay plain.
"""

import numpy as np

from robe_numba._jit import jit
from robe_numba.hashing import U1, U63, sign_word

GROUP = np.uint64(64)  # elements that share a sign word
ZERO = np.uint64(0)


@jit
def block_bounds(block, spec):
    """First element of a row's block and the first after it; the last block may be partial."""
    first = block * spec.block_size
    return first, min(first + spec.block_size, spec.embedding_dim)


@jit
def next_run(start, first, element, last, key, table, spec):
    """The run that begins at `element`: its array position, length and sign word."""
    position = start + (element - first)
    if position >= spec.array_size:
        position -= spec.array_size
    length = min(last - element, spec.array_size - position)
    signs = ZERO
    if spec.sign:
        length = min(length, GROUP - (element & U63))
        signs = sign_word(key, table, element, spec)
    return position, length, signs


@jit
def apply_sign(value, signs, element):
    """The value, negated where the element's bit of the sign word is 1."""
    return -value if (signs >> (element & U63)) & U1 else value
