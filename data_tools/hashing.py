"""Random words that depend on numbers alone: SplitMix64 as a hash, compiled."""

import numpy as np

from robe_numba._jit import jit

U64 = np.uint64
GOLDEN = U64(0x9E3779B97F4A7C15)


@jit
def mix(word: np.uint64) -> np.uint64:
    """Finalizer of SplitMix64: a bijection of 64-bit words (Steele, Lea, Flood 2014)."""
    word = (word ^ (word >> U64(30))) * U64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> U64(27))) * U64(0x94D049BB133111EB)
    return word ^ (word >> U64(31))


@jit
def word_of(key: np.uint64, index: int) -> np.uint64:
    """Word `index` of the stream that starts at `key`."""
    return mix(key + GOLDEN * (U64(index) + U64(1)))


@jit
def below(word: np.uint64, bound: np.uint64) -> np.uint64:
    """A whole number below `bound`, at most 2**32, from all bits of a word: word * bound >> 64."""
    low = (word & U64(0xFFFFFFFF)) * bound
    return ((word >> U64(32)) * bound + (low >> U64(32))) >> U64(32)
