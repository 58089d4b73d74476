"""Checks of arguments, and their conversion to what JAX computes with.

Types, shapes and dtypes are always checked; values only where they are known, which they are not
inside `jax.jit`, `jax.vmap` and the like.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from robe_numba.checks.bags import (
    BagArguments,
    check_bag_ids_shape,
    check_offsets,
    check_offsets_shape,
    check_one_mode,
    check_padding,
)
from robe_numba.checks.ids import id_limits, raise_outside
from robe_numba.checks.scalars import check_spec, type_name
from robe_numba.jax.words import Words, to_words
from robe_numba.spec import Spec

X64 = 'jax.config.update("jax_enable_x64", True)'


class BagArrays(NamedTuple):
    """The arrays that describe bags."""

    ids: Words  # (n,)
    offsets: Any  # int32 (num_tables * batch + 1,)
    weights: Any  # (n,), or None


def check_size(spec: Any) -> None:
    """Require a spec whose array JAX can index."""
    check_spec(spec)
    if spec.array_size > 2**31 and not jax.config.jax_enable_x64:
        raise ValueError(
            f"array_size is {spec.array_size}, but without its 64-bit mode JAX indexes at most "
            f"{2**31} elements; use {X64}"
        )


def check_array(array: Any, spec: Spec) -> jax.Array:
    """Require the array (array_size,) that embeddings are read from."""
    dtypes = ("float32", "float16", "bfloat16", "float64")
    return _check_real("array", array, spec.array_size, dtypes)


def check_row_ids(indices: Any, spec: Spec) -> Words:
    """Require ids (..., num_tables), within their tables where they are known."""
    ids = _check_ids(indices)
    shape = ids.low.shape
    if not shape or shape[-1] != spec.num_tables:
        raise ValueError(
            f"indices has shape {shape}; expected (..., num_tables) with num_tables = "
            f"{spec.num_tables}"
        )
    if spec.num_embeddings is not None and _are_known(*ids):
        values = _values(ids)
        _raise_first(values >= id_limits(spec), indices, values, np.arange(spec.num_tables), spec)
    return ids


def check_bags(given: BagArguments, spec: Spec, array: jax.Array) -> BagArrays:
    """Require bags that can be pooled; the values of arrays where they are known."""
    ids, offsets, weights = _check_ids(given.indices), given.offsets, given.per_sample_weights
    check_bag_ids_shape(ids.low)
    _check_integers("offsets", offsets)
    check_offsets_shape(offsets, spec.num_tables)
    check_one_mode(given.mode, weights is not None)
    if weights is not None:
        dtype = str(jnp.promote_types(array.dtype, jnp.float32))
        weights = _check_real("per_sample_weights", weights, ids.low.size, (dtype,))
    padding = check_padding(given.padding_idx)
    if _are_known(offsets):
        offsets = np.asarray(offsets)
        wide = offsets.astype(np.promote_types(offsets.dtype, np.uint32))
        _check_known_bags(given.indices, ids, check_offsets(wide, spec.num_tables), spec, padding)
    return BagArrays(ids, jnp.asarray(offsets.astype(np.int32)), weights)


def _check_known_bags(
    indices: Any, ids: Words, offsets: np.ndarray, spec: Spec, padding: np.uint64 | None
) -> None:
    """Require offsets that span the ids, and known ids within their tables, or padding."""
    count = ids.low.size
    if offsets[-1] != count:
        raise ValueError(
            f"offsets ends at {offsets[-1]} but there are {count} indices; the last offset must be "
            f"the number of indices"
        )
    if spec.num_embeddings is None or count == 0 or not _are_known(*ids):
        return
    batch = (offsets.size - 1) // spec.num_tables
    values, tables = _values(ids), np.repeat(np.arange(spec.num_tables), np.diff(offsets[::batch]))
    outside = values >= id_limits(spec)[tables]
    if padding is not None:
        outside &= values != padding
    _raise_first(outside, indices, values, tables, spec)


def _raise_first(
    outside: np.ndarray, indices: Any, values: np.ndarray, tables: np.ndarray, spec: Spec
) -> None:
    """Raise the error of the first id outside its table; `tables` has that of each last index."""
    if outside.any():
        place = tuple(int(i) for i in np.argwhere(outside)[0])
        value = values[place] if isinstance(indices, tuple) else indices[place]
        raise_outside(value, f"indices{list(place)}", int(tables[place[-1]]), spec)


def _are_known(*values: Any) -> bool:
    """Whether values can be read now, because none of them is traced."""
    return not any(isinstance(value, jax.core.Tracer) for value in values)


def _values(ids: Words) -> np.ndarray:
    """Known ids as uint64."""
    high, low = (np.asarray(word).astype(np.uint64) for word in ids)
    return high << np.uint64(32) | low


def _check_ids(indices: Any) -> Words:
    """Require integers, or a pair of words; returned as words of JAX."""
    if isinstance(indices, tuple):
        return _check_pair(indices)
    _check_integers("indices", indices)
    if isinstance(indices, np.ndarray):
        return Words(*(jnp.asarray(word) for word in to_words(indices)))
    if indices.dtype.itemsize == 8:
        return Words((indices >> 32).astype(jnp.uint32), indices.astype(jnp.uint32))
    if jnp.issubdtype(indices.dtype, jnp.unsignedinteger):
        return Words(jnp.zeros(indices.shape, jnp.uint32), indices.astype(jnp.uint32))
    signed = indices.astype(jnp.int32)
    return Words((signed >> 31).astype(jnp.uint32), signed.astype(jnp.uint32))


def _check_pair(indices: tuple[Any, ...]) -> Words:
    """Require two uint32 arrays of one shape."""
    if len(indices) != 2:
        raise TypeError(
            f"indices is a tuple of {len(indices)}; give an array, or the pair of words (high, low)"
        )
    for name, word in zip(Words._fields, indices, strict=True):
        _require_array(f"indices' {name} words", word)
        if word.dtype != np.uint32:
            raise TypeError(
                f"indices' {name} words have dtype {word.dtype}; they must be uint32: use "
                f"robe_numba.jax.to_words"
            )
    words = Words(*(jnp.asarray(word) for word in indices))
    if words.high.shape != words.low.shape:
        raise ValueError(
            f"indices' high words have shape {words.high.shape} and the low ones "
            f"{words.low.shape}; give both the same shape"
        )
    return words


def _check_integers(name: str, values: Any) -> None:
    _require_array(name, values)
    if not jnp.issubdtype(values.dtype, jnp.integer):
        raise TypeError(
            f"{name} has dtype {values.dtype}; it must be an integer dtype: use "
            f"{name}.astype('int32')"
        )


def _check_real(name: str, values: Any, size: int, dtypes: tuple[str, ...]) -> jax.Array:
    """Require an array (size,) of one of the dtypes; returned as JAX's."""
    _require_array(name, values)
    if str(values.dtype) not in dtypes:
        raise TypeError(
            f"{name} has dtype {values.dtype}; it must be {' or '.join(dtypes)}: use "
            f"{name}.astype({dtypes[0]!r})"
        )
    if values.dtype == np.float64 and not jax.config.jax_enable_x64:
        raise TypeError(
            f"{name} has dtype float64, which JAX has in 64-bit mode alone; use "
            f"{name}.astype('float32'), or {X64}"
        )
    if values.shape != (size,):
        raise ValueError(f"{name} has shape {values.shape}; expected {(size,)}")
    return jnp.asarray(values)


def _require_array(name: str, values: Any) -> None:
    if not isinstance(values, np.ndarray | jax.Array):
        raise TypeError(
            f"{name} must be an array of NumPy or JAX, got {type_name(values)}; use numpy.asarray"
        )
