"""Starts of blocks and signs of elements in `jax.numpy`; the formulas are in docs/design.md.

The functions are those of `robe_numba.kernels.scalar.hashing`, on arrays of words. `tables` selects
the tables of ids (..., num_tables), all by `slice(None)`, or of ids (n,), by an array (n,).
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from robe_numba.jax.words import (
    Words,
    add,
    add_word,
    high_product,
    mix,
    multiply,
    multiply_word,
    product,
    remainder,
    to_words,
    xor,
)
from robe_numba.kernels.coefficients import hash_spec
from robe_numba.spec import Spec, TableSpec


def row_keys(ids: Words, spec: Spec) -> Words:
    """The key that the hashes of each row start from."""
    if isinstance(spec, TableSpec):
        return ids
    if spec.hash == "multiply-shift":
        return mix(ids)
    low = remainder(ids, int(hash_spec(spec).modulus))
    return Words(jnp.zeros_like(low), low)


def start_words(keys: Words, tables: Any, spec: Spec) -> Words:
    """Where each block of each row begins in the array, (..., blocks)."""
    constants = hash_spec(spec)
    keys = Words(keys.high[..., None], keys.low[..., None])
    coefficients = [_select(words, tables) for words in constants.coefficients]
    num_starts, alignment = int(constants.num_starts), np.uint32(constants.alignment)
    if isinstance(spec, TableSpec):
        return add(multiply(coefficients[0], keys), coefficients[1])
    if spec.hash != "multiply-shift":
        factor, base = (words.low for words in coefficients)
        place = remainder(add_word(product(factor, keys.low), base), int(constants.modulus))
        return product(place % np.uint32(num_starts), alignment)
    word = _strong_word(keys, *coefficients[:3])
    if len(coefficients) == 3:  # at most 2**32 starts
        scaled = add_word(product(word, np.uint32(num_starts - 1)), word).high
        return product(scaled, alignment)
    pair = Words(word, _strong_word(keys, *coefficients[3:]))
    return multiply_word(high_product(pair, to_words(num_starts)), alignment)


def sign_words(keys: Words, tables: Any, spec: Spec) -> Any:
    """The signs of each row, uint32 (..., words); bit i % 32 of word i // 32 is 1 for a minus."""
    groups = _select(hash_spec(spec).sign_keys, tables)
    signs = mix(xor(Words(keys.high[..., None], keys.low[..., None]), groups))
    words = jnp.stack([signs.low, signs.high], axis=-1)
    return words.reshape(*keys.low.shape, 2 * groups.low.shape[-1])


def are_inside(ids: Words, tables: Any, spec: Spec) -> Any:
    """Whether each id is one of its table, for a spec with num_embeddings."""
    sizes = np.array(spec.num_embeddings, dtype=np.uint64)
    high, low = _select(sizes, tables)
    return (ids.high < high) | (ids.high == high) & (ids.low < low)


def _strong_word(keys: Words, a: Words, a_high: Words, b: Words) -> Any:
    """A strongly 2-universal 32-bit word of 64-bit keys."""
    products = add(multiply_word(a, keys.low), multiply_word(a_high, keys.high))
    return add(products, b).high


def _select(constants: np.ndarray, tables: Any) -> Words:
    """The words of constants (num_tables, ...) for the tables of ids."""
    words = to_words(constants)
    return Words(jnp.asarray(words.high)[tables], jnp.asarray(words.low)[tables])
