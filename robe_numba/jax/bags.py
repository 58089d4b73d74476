"""Embeddings of bags of ids, in `jax.numpy`.

Bags are CSR and table-major, as `robe_numba.embedding_bag` takes them.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from robe_numba.checks.bags import BagArguments
from robe_numba.jax.arguments import BagArrays, check_array, check_bags, check_size
from robe_numba.jax.rows import read_rows
from robe_numba.jax.words import Words, to_words
from robe_numba.spec import Spec


def embedding_bag(
    array: Any,
    indices: Any,
    offsets: Any,
    spec: Spec,
    mode: str = "sum",
    per_sample_weights: Any = None,
    padding_idx: int | None = None,
) -> jax.Array:
    """Pool the embeddings of each bag of ids.

    Parameters
    ----------
    array : array (array_size,) float32, float16, bfloat16, or float64 in JAX's 64-bit mode
        The shared array, of JAX or NumPy.
    indices : array (n,) of an integer dtype, or a pair of uint32 arrays
        Ids of all bags, as `lookup` takes them.
    offsets : array (num_tables * batch + 1,) of an integer dtype
        Table-major: bag t * batch + b, of table t and sample b, is
        indices[offsets[bag]:offsets[bag + 1]]. Where offsets are traced, ids from offsets[-1] on
        are left out, so that batches can be padded to one n.
    spec : RobeSpec or TableSpec
        How rows are read; static under `jax.jit`.
    mode : {"sum", "mean", "max"}
        How embeddings are pooled; static.
    per_sample_weights : array (n,) of the result's dtype, optional
        A factor for each id; only with "sum".
    padding_idx : int, optional
        An id that is left out of every bag, and out of the count of "mean"; static. It may lie
        outside the tables, as -1 does.

    Returns
    -------
    jax.Array, (batch, num_tables, d) of the dtype of `array`, or float32 for halves
        Empty bags are 0. With num_embeddings, an id outside its table is an error where ids and
        offsets are known, and makes its bag NaN where they are traced. The gradient of "max" goes
        to the first read of each maximum.

    Raises
    ------
    TypeError, ValueError
        An argument of the wrong type, shape or dtype, known offsets that decrease or do not span
        the indices, a known index outside its table, or more than 2**31 elements without JAX's
        64-bit mode.
    """
    check_size(spec)
    array = check_array(array, spec)
    given = BagArguments(indices, offsets, mode, per_sample_weights, padding_idx)
    bags = check_bags(given, spec, array)
    batch = (offsets.size - 1) // spec.num_tables
    if batch == 0 or bags.ids.low.size == 0:
        dtype = jnp.promote_types(array.dtype, jnp.float32)
        return jnp.zeros((batch, spec.num_tables, spec.embedding_dim), dtype)
    return _embedding_bag(array, bags, spec, mode, padding_idx)


@partial(jax.jit, static_argnames=("spec", "mode", "padding_idx"))
def _embedding_bag(
    array: jax.Array, bags: BagArrays, spec: Spec, mode: str, padding_idx: int | None
) -> jax.Array:
    ids, offsets, weights = bags
    num_bags, count = offsets.size - 1, ids.low.size
    batch = num_bags // spec.num_tables
    owners = jnp.searchsorted(offsets[1:], jnp.arange(count), side="right")
    tables = jnp.minimum(owners // batch, spec.num_tables - 1)
    kept = owners < num_bags
    if padding_idx is not None:
        kept &= ~_equal(ids, to_words(padding_idx))
    owners = jnp.where(kept, owners, num_bags)  # sums over segments leave out what is beyond them
    rows = jnp.where(kept[:, None], read_rows(array, ids, tables, spec), 0)
    if mode == "max":
        pooled = _maxima(rows, owners, num_bags)
    else:
        terms = rows if weights is None else weights[:, None] * rows
        pooled = jax.ops.segment_sum(terms, owners, num_bags)
    if mode == "mean":
        sizes = jax.ops.segment_sum(kept.astype(rows.dtype), owners, num_bags)
        pooled /= jnp.maximum(sizes, 1)[:, None]
    return pooled.reshape(spec.num_tables, batch, -1).swapaxes(0, 1)


def _equal(ids: Words, other: Words) -> jax.Array:
    return (ids.high == other.high) & (ids.low == other.low)


def _maxima(rows: jax.Array, owners: jax.Array, num_bags: int) -> jax.Array:
    """The maxima (num_bags, d), each read from the first row that has it; a NaN is the largest."""
    values, count = jax.lax.stop_gradient(rows), len(rows)
    maxima = jax.ops.segment_max(values, owners, num_bags)
    wins = (values == maxima[jnp.minimum(owners, num_bags - 1)]) | jnp.isnan(values)
    # In int32, as the number of an empty bag's winner, the largest integer, wraps around in int64.
    numbers = jnp.where(wins, jnp.arange(count, dtype=jnp.int32)[:, None], count)
    winners = jax.ops.segment_min(numbers, owners, num_bags)
    return jnp.take_along_axis(rows, winners, axis=0, mode="fill", fill_value=0)
