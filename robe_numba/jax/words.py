"""64-bit integers as two 32-bit words each, since JAX has no 64-bit integers by default.

All arithmetic is exact, modulo 2**64 where a result has more bits.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

MIX_1 = 0xFF51AFD7ED558CCD
MIX_2 = 0xC4CEB9FE1A85EC53


class Words(NamedTuple):
    """64-bit integers as their upper and lower halves; a pytree, so it passes through `jax.jit`."""

    high: Any  # uint32, NumPy or JAX, of any shape
    low: Any  # uint32, of the same shape


def to_words(values: Any) -> Words:
    """The words of integers of NumPy or Python; signed ones in two's complement.

    Parameters
    ----------
    values : int or ndarray of an integer dtype
        Of any shape.

    Returns
    -------
    Words of uint32 ndarrays, of that shape
        2**32 * high + low is the integer modulo 2**64.

    Raises
    ------
    TypeError
        The values are not integers.
    """
    if isinstance(values, int):
        values = np.uint64(values % 2**64)
    array = np.asarray(values)
    if array.dtype.kind not in "iu":
        raise TypeError(f"values have dtype {array.dtype}; words are made of integers alone")
    wide = array.astype(np.uint64)
    return Words((wide >> np.uint64(32)).astype(np.uint32), wide.astype(np.uint32))


def add_word(x: Words, y: Any) -> Words:
    """x + y, for y of 32 bits."""
    low = x.low + y
    return Words(x.high + (low < y).astype(jnp.uint32), low)


def add(x: Words, y: Words) -> Words:
    """x + y."""
    total = add_word(x, y.low)
    return Words(total.high + y.high, total.low)


def xor(x: Words, y: Words) -> Words:
    """The bits in which x and y differ."""
    return Words(x.high ^ y.high, x.low ^ y.low)


def product(x: Any, y: Any) -> Words:
    """x * y of 32-bit factors, by halves of 16 bits."""
    half, mask = np.uint32(16), np.uint32(0xFFFF)
    x_high, x_low, y_high, y_low = x >> half, x & mask, y >> half, y & mask
    middle = x_high * y_low + ((x_low * y_low) >> half)
    other = x_low * y_high + (middle & mask)
    return Words(x_high * y_high + (middle >> half) + (other >> half), x * y)


def multiply_word(x: Words, y: Any) -> Words:
    """x * y, for y of 32 bits."""
    lower = product(x.low, y)
    return Words(lower.high + x.high * y, lower.low)


def multiply(x: Words, y: Words) -> Words:
    """x * y."""
    lower = multiply_word(x, y.low)
    return Words(lower.high + x.low * y.high, lower.low)


def high_product(x: Words, y: Words) -> Words:
    """The upper 64 bits of the 128-bit product x * y."""
    middle = add_word(product(x.high, y.low), product(x.low, y.low).high)
    other = add_word(product(x.low, y.high), middle.low)
    return add_word(add_word(product(x.high, y.high), middle.high), other.high)


def remainder(x: Words, divisor: int) -> Any:
    """The 32-bit x % divisor, for a divisor in [1, 2**31]."""
    # The estimated quotient is right or too small by 1, since the reciprocal is rounded down.
    reciprocal = to_words((2**64 - 1) // divisor)
    rest = x.low - high_product(x, reciprocal).low * np.uint32(divisor)
    return jnp.where(rest >= np.uint32(divisor), rest - np.uint32(divisor), rest)


def mix(x: Words) -> Words:
    """A bijection of 64-bit words that scatters regular patterns (MurmurHash3's finaliser)."""
    for factor in (MIX_1, MIX_2):
        x = multiply(_fold(x), to_words(factor))
    return _fold(x)


def _fold(x: Words) -> Words:
    """x ^ (x >> 33)."""
    return Words(x.high, x.low ^ (x.high >> np.uint32(1)))
