"""Checks of row ids, one per table and sample, and what ids of bags share with them."""

from functools import lru_cache
from typing import Any

import numpy as np

from robe_numba.checks.arrays import check_array
from robe_numba.kernels.cpu.inspect import rows_inside
from robe_numba.spec import RobeSpec, Spec

INDEX_DTYPES = tuple(np.dtype(name) for name in ("int32", "int64", "uint32", "uint64"))


def check_indices(indices: Any, spec: Spec, name: str = "indices") -> np.ndarray:
    """Require ids (batch, num_tables) within their tables; flat, as uint64, for kernels.

    `name` is what a message calls them.
    """
    check_array(name, indices, None, INDEX_DTYPES)
    check_indices_shape(indices, spec.num_tables)
    return check_inside(indices, spec, name)


def check_inside(indices: np.ndarray, spec: Spec, name: str) -> np.ndarray:
    """As `check_indices`, of an array (batch, k) of ids of the first k tables."""
    ids = as_uint64(indices).reshape(-1)
    if spec.num_embeddings is None or not ids.size:
        return ids
    limits = id_limits(spec)[: indices.shape[1]]
    if not rows_inside(ids, limits):
        outside = ids.reshape(indices.shape) >= limits
        sample, table = (int(i) for i in np.argwhere(outside)[0])
        raise_outside(indices[sample, table], f"{name}[{sample}, {table}]", table, spec)
    return ids


def check_indices_shape(indices: Any, num_tables: int) -> None:
    """Require ids of the shape (batch, num_tables), on either device."""
    if len(indices.shape) != 2 or indices.shape[1] != num_tables:
        raise ValueError(
            f"indices has shape {tuple(indices.shape)}; expected (batch, num_tables) with "
            f"num_tables = {num_tables}"
        )


@lru_cache(maxsize=1024)
def id_limits(spec: Spec) -> np.ndarray:
    """The number of rows of each table, which ids stay below."""
    return np.array(spec.num_embeddings, dtype=np.uint64)


def raise_outside(value: Any, place: str, table: int, spec: Spec) -> None:
    """Raise the error of an id outside its table; `place` is what the id is called."""
    assert spec.num_embeddings is not None
    may_be_free = isinstance(spec, RobeSpec) and (spec.hash != "uma" or spec.num_tables == 1)
    free = ", or use num_embeddings=None, which takes every id" if may_be_free else ""
    raise ValueError(
        f"{place} is {value}, but table {table} has num_embeddings = "
        f"{spec.num_embeddings[table]}: legal ids are 0 to {spec.num_embeddings[table] - 1}. "
        f"Map the id into the table{free}"
    )


def as_uint64(indices: np.ndarray) -> np.ndarray:
    """Ids as the kernels' one integer type; signed ids in two's complement.

    Copies 32-bit ids and read-only arrays, so that kernels compile for one type alone.
    """
    if indices.dtype.itemsize == 8 and indices.flags.writeable:
        return indices.view(np.uint64)
    return indices.astype(np.uint64)
