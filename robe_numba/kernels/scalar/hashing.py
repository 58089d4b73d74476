"""Where an element is in the array: the scalar functions of every hash family, for any target.

All arithmetic is on uint64, without exception: Numba turns a mix of uint64 and int64 into int64 or
float64, which is right for small ids and wrong for large ones. Functions without branches take
vectors of uint64 as well as scalars.
"""

from typing import NamedTuple

import numpy as np

from robe_numba._jit import inlined, scalar
from robe_numba.kernels.scalar.unsigned import ONE, U6, U32, U33, U63, U64, ZERO


class HashSpec(NamedTuple):
    """Constants of a spec as kernels read them; made by `robe_numba.kernels.coefficients`."""

    array_size: np.uint64  # m, elements
    block_size: np.uint64  # Z, elements
    embedding_dim: np.uint64  # d, elements
    num_tables: np.uint64
    num_blocks: np.uint64  # per row, ceil(d / Z)
    modulus: np.uint64  # P of the modular families; 0 means multiply-shift
    num_starts: np.uint64  # hashes map into [0, num_starts), in units of `alignment`
    alignment: np.uint64  # elements
    sign: bool
    coefficients: np.ndarray  # uint64 (2, 3 or 6, num_tables, num_blocks)
    sign_keys: np.ndarray  # uint64 (num_tables, ceil(d / 64)); no columns without sign


MIX_1 = np.uint64(0xFF51AFD7ED558CCD)
MIX_2 = np.uint64(0xC4CEB9FE1A85EC53)
LOW_WORD = np.uint64(0xFFFFFFFF)
NO_START = np.uint64(2**64 - 1)  # stands for the start of a padded index


@scalar
def mix(x):
    """A bijection of 64-bit words that scatters regular patterns (MurmurHash3's finaliser)."""
    x = (x ^ (x >> U33)) * MIX_1
    x = (x ^ (x >> U33)) * MIX_2
    return x ^ (x >> U33)


@scalar
def high_product(x, y):
    """The upper 64 bits of the 128-bit product x * y."""
    x_low, x_high = x & LOW_WORD, x >> U32
    y_low, y_high = y & LOW_WORD, y >> U32
    middle = x_high * y_low + ((x_low * y_low) >> U32)
    other = x_low * y_high + (middle & LOW_WORD)
    return x_high * y_high + (middle >> U32) + (other >> U32)


@inlined
def row_key(index, spec):
    """The key that the hashes of one row start from, computed once per row.

    Multiply-shift hashes the mixed id. The mix is a bijection, so the family stays 2-universal, and
    it scatters contiguous and strided ids, so that no multiplier puts them on a few starts.
    """
    if spec.modulus == 0:
        return mix(index)
    return index % spec.modulus


@inlined
def strong_word(key, a, a_high, b):
    """A strongly 2-universal 32-bit word of a 64-bit key (Thorup, vector multiply-shift)."""
    return (a * (key & LOW_WORD) + a_high * (key >> U32) + b) >> U32


@inlined
def scale_word(word, spec):
    """Map a 32-bit word to a start in [0, array_size), with at most 2**32 starts."""
    # word * num_starts, written so that LLVM sees 32-bit factors: their vectors multiply faster.
    product = word * ((spec.num_starts - ONE) & LOW_WORD) + word
    return (product >> U32) * (spec.alignment & LOW_WORD)


@inlined
def block_start(key, table, block, spec):
    """Position in the array of a row's block, in [0, array_size)."""
    c = spec.coefficients  # indexed by element: a view would be reference-counted, atomically
    if spec.modulus != 0:
        start = (c[0, table, block] * key + c[1, table, block]) % spec.modulus % spec.num_starts
        return start * spec.alignment
    word = strong_word(key, c[0, table, block], c[1, table, block], c[2, table, block])
    if c.shape[0] == 3:
        return scale_word(word, spec)
    # More than 2**32 starts: a second word.
    second = strong_word(key, c[3, table, block], c[4, table, block], c[5, table, block])
    return high_product((word << U32) | second, spec.num_starts) * spec.alignment


@inlined
def sign_word(key, table, element, spec):
    """The 64 signs of the aligned group of 64 elements that `element` is in; bit 1 is minus."""
    return mix(key ^ spec.sign_keys[table, element >> U6])


@inlined
def sign_window(key, table, element, spec):
    """The signs of the 64 elements from `element` on, up to the end of the row; bit 1 is minus."""
    group, shift = element >> U6, element & U63
    window = sign_word(key, table, element, spec) >> shift
    if shift != ZERO and (group + ONE) < np.uint64(spec.sign_keys.shape[1]):
        window |= sign_word(key, table, element + U64, spec) << (U64 - shift)
    return window
