"""Embeddings of one id per table, in `jax.numpy`.

Shapes use num_tables, d (embedding_dim), m (array_size), Z (block_size) and blocks (ceil(d / Z)),
as docs/design.md does.
"""

from functools import partial
from math import gcd
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robe_numba.jax.arguments import check_array, check_row_ids, check_size
from robe_numba.jax.hashing import are_inside, row_keys, sign_words, start_words
from robe_numba.jax.words import Words
from robe_numba.spec import Spec, TableSpec

ALL_TABLES = slice(None)


def block_starts(indices: Any, spec: Spec) -> jax.Array:
    """Where each block of each row begins in the array.

    Parameters
    ----------
    indices : array (..., num_tables) of an integer dtype, or a pair of uint32 arrays
        As `lookup` takes them.
    spec : RobeSpec or TableSpec
        How rows are read; static under `jax.jit`.

    Returns
    -------
    jax.Array, (..., num_tables, blocks) int32, or int64 for more than 2**31 elements
        Each in [0, array_size), as `robe_numba.block_starts` gives them.

    Raises
    ------
    TypeError, ValueError
        As `lookup`.
    """
    check_size(spec)
    starts = _block_starts(check_row_ids(indices, spec), spec)
    return starts.astype(_signed(starts))


def lookup(array: Any, indices: Any, spec: Spec) -> jax.Array:
    """The embedding of one id per table.

    Parameters
    ----------
    array : array (array_size,) float32, float16, bfloat16, or float64 in JAX's 64-bit mode
        The shared array, of JAX or NumPy.
    indices : array (..., num_tables) of an integer dtype, or a pair of uint32 arrays
        The row of each table; signed ids are read in two's complement. 64-bit ids of NumPy are
        read in full. `jax.jit` shortens its 64-bit arguments to 32 bits unless JAX is in 64-bit
        mode: give it `to_words(indices)`, the pair of their upper and lower words.
    spec : RobeSpec or TableSpec
        How rows are read; static under `jax.jit`.

    Returns
    -------
    jax.Array, (..., num_tables, d) of the dtype of `array`, or float32 for halves
        The embeddings, bit for bit those of `robe_numba.lookup`. With num_embeddings, an id outside
        its table is an error where it is known, and gives a row of NaN where it is traced.

    Raises
    ------
    TypeError, ValueError
        An argument of the wrong type, shape or dtype, a known index outside its table, or more than
        2**31 elements without JAX's 64-bit mode.

    Notes
    -----
    Source: Desai, Chou, Shrivastava, ROBE, MLSys 2022.
    """
    check_size(spec)
    array = check_array(array, spec)
    return _lookup(array, check_row_ids(indices, spec), spec)


@partial(jax.jit, static_argnames="spec")
def _block_starts(ids: Words, spec: Spec) -> jax.Array:
    return _starts(ids, row_keys(ids, spec), ALL_TABLES, spec)


@partial(jax.jit, static_argnames="spec")
def _lookup(array: jax.Array, ids: Words, spec: Spec) -> jax.Array:
    return read_rows(array, ids, ALL_TABLES, spec)


def read_rows(array: jax.Array, ids: Words, tables: Any, spec: Spec) -> jax.Array:
    """The embeddings (..., d) of ids (...); NaN for ids outside their tables."""
    dim, keys = spec.embedding_dim, row_keys(ids, spec)
    block_size = min(spec.block_size, dim)
    # XLA computes hashes in the loop that reads elements. Over pieces, each of which lies in one
    # block and has its signs in one word, there is an inner loop, and one hash for all of it.
    length = gcd(block_size, dim, 32) if spec.sign else gcd(block_size, dim)
    elements = np.arange(dim, dtype=np.uint32).reshape(-1, length)
    begins = elements[:, 0]
    starts = _starts(ids, keys, tables, spec)[..., begins // block_size, None]
    places = starts + elements % block_size
    size = places.dtype.type(spec.array_size)
    places = jnp.where(places < size, places, places - size)  # the array is circular
    rows = array.at[places.astype(_signed(places))].get(mode="promise_in_bounds")
    rows = rows.astype(jnp.promote_types(rows.dtype, jnp.float32))
    if spec.sign:
        words = sign_words(keys, tables, spec)[..., begins // 32, None]
        minus = (words >> elements % 32 & np.uint32(1)) == 1
        rows = jnp.where(minus, -rows, rows)
    rows = rows.reshape(*ids.low.shape, dim)
    if spec.num_embeddings is not None:
        rows = jnp.where(are_inside(ids, tables, spec)[..., None], rows, jnp.nan)
    return rows


def _starts(ids: Words, keys: Words, tables: Any, spec: Spec) -> jax.Array:
    """Starts of blocks, (..., blocks) in [0, m), for any ids; uint32, or uint64 for a large m."""
    words = start_words(keys, tables, spec)
    starts = words.low
    if spec.array_size > 2**31:
        starts = words.high.astype(jnp.uint64) << 32 | words.low
    if isinstance(spec, TableSpec):
        starts = jnp.where(are_inside(ids, tables, spec)[..., None], starts, 0)
    return starts


def _signed(places: jax.Array) -> Any:
    """The dtype in which JAX takes positions."""
    return jnp.int32 if places.dtype == jnp.uint32 else jnp.int64
