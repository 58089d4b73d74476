"""Eight bytes of text at a time, as one uint64 whose lowest byte is the first.

The machine must be little-endian, as all machines are that Numba is built for.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from robe_numba._jit import scalar

u64 = np.uint64
# Words of eight equal bytes, and masks that keep every other byte or pair of bytes.
_01, _06, _0F, _20, _30, _76, _80, _F0 = (
    u64(byte * 0x0101_0101_0101_0101) for byte in (0x01, 0x06, 0x0F, 0x20, 0x30, 0x76, 0x80, 0xF0)
)
_BYTES, _PAIRS, _LOW_HALF = map(u64, (0x00FF_00FF_00FF_00FF, 0x0000_FFFF_0000_FFFF, 0xFFFF_FFFF))


@intrinsic
def load_word(typing_context: Any, data: Any, position: Any) -> Any:
    """The bytes data[position], ..., data[position + 7] as a uint64; all of them exist."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        first = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        word = builder.bitcast(builder.gep(first, [arguments[1]]), ir.IntType(64).as_pointer())
        return builder.load(word, align=1)

    return types.uint64(data, position), generate


@intrinsic
def trailing_zeros(typing_context: Any, word: Any) -> Any:
    """Number of zero bits below the lowest one of a uint64 that is not 0."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.IntType(1)(1))

    return types.uint64(word), generate


@scalar
def hex_word(word):
    """Value of eight hexadecimal digits, and whether all eight are digits."""
    nibbles = (word & _0F) + ((word >> u64(6)) & _01) * u64(9)
    # Written again in lower case, where adding 6 carries into the upper half of the byte from 10
    # on. What differs from the word beyond the bit 0x20 of a letter was no digit.
    again = nibbles + _30 + (((nibbles + _06) >> u64(4)) & _01) * u64(ord("a") - ord("9") - 1)
    wrong = ((again ^ word) & ~((word >> u64(1)) & _20)) | (nibbles & _F0)
    pairs = ((nibbles << u64(4)) | (nibbles >> u64(8))) & _BYTES
    quads = ((pairs << u64(8)) | (pairs >> u64(16))) & _PAIRS
    return ((quads << u64(16)) | (quads >> u64(32))) & _LOW_HALF, wrong == 0


@scalar
def non_digits(word):
    """A word whose lowest set bit is the highest bit of the first byte that is no decimal digit.

    Adding 0x76 carries a digit's value of 10 or more into that bit; higher bytes may be wrong.
    """
    digits = word ^ _30
    return ((digits + _76) | digits) & _80


@scalar
def decimal_word(word, ends):
    """Value of the digits before the first non-digit, given what `non_digits` returned."""
    # To the end of the word, behind zeros. Of no digits, all 64 bits must go: one and then 63.
    digits = ((word ^ _30) << u64(1)) << (u64(70) - trailing_zeros(ends))
    pairs = (digits * u64(10) + (digits >> u64(8))) & _BYTES
    quads = (pairs * u64(100) + (pairs >> u64(16))) & _PAIRS
    return (quads * u64(10000) + (quads >> u64(32))) & _LOW_HALF
