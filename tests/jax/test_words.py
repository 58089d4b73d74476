"""64-bit arithmetic on pairs of 32-bit words, against Python's integers."""

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.needs import need

need("jax")

import jax.numpy as jnp

from robe_numba.jax import words
from tests.support import naive

WORD = 2**64
EDGES = (0, 1, 2**16 - 1, 2**16, 2**31, 2**32 - 1, 2**32, 2**63, WORD - 2**32, WORD - 1)
longs = st.one_of(st.integers(0, WORD - 1), st.sampled_from(EDGES))
shorts = st.one_of(st.integers(0, 2**32 - 1), st.sampled_from([e for e in EDGES if e < 2**32]))


def to_jax(value):
    return words.Words(*(jnp.asarray(word) for word in words.to_words(value)))


def to_int(pair):
    assert pair.high.dtype == pair.low.dtype == np.uint32
    return int(pair.high) * 2**32 + int(pair.low)


@given(longs, longs, shorts, shorts)
@example(WORD - 1, WORD - 1, 2**32 - 1, 2**32 - 1)
def test_arithmetic_equals_big_integers(x, y, short, other):
    x_words, y_words, word = to_jax(x), to_jax(y), jnp.uint32(short)
    assert to_int(words.add_word(x_words, word)) == (x + short) % WORD
    assert to_int(words.add(x_words, y_words)) == (x + y) % WORD
    assert to_int(words.xor(x_words, y_words)) == x ^ y
    assert to_int(words.product(word, jnp.uint32(other))) == short * other
    assert to_int(words.multiply_word(x_words, word)) == x * short % WORD
    assert to_int(words.multiply(x_words, y_words)) == x * y % WORD
    assert to_int(words.high_product(x_words, y_words)) == x * y // WORD
    assert to_int(words.mix(x_words)) == naive.mix(x)


divisors = st.one_of(st.integers(1, 2**31), st.sampled_from([1, 2, 3, 2**31 - 1, 2**31]))


@given(longs, divisors, st.integers(-2, 2))
def test_remainders_equal_big_integers(x, divisor, step):
    near = (x - x % divisor + step) % WORD  # where an estimated quotient may be wrong by one
    for value in (x, near):
        rest = words.remainder(to_jax(value), divisor)
        assert rest.dtype == np.uint32
        assert int(rest) == value % divisor


@given(st.sampled_from(["int8", "uint16", "int32", "uint32", "int64", "uint64"]), st.data())
def test_words_of_signed_integers_are_their_twos_complement(dtype, data):
    info = np.iinfo(dtype)
    values = data.draw(st.lists(st.integers(int(info.min), int(info.max)), max_size=4))
    pair = words.to_words(np.array(values, dtype))
    joined = [int(high) * 2**32 + int(low) for high, low in zip(*pair, strict=True)]
    assert joined == [value % WORD for value in values]
    for value in values:
        assert to_int(words.to_words(value)) == value % WORD
