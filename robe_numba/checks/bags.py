"""Checks of bags: ids of any number per bag, their offsets, weights and how they are pooled."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from robe_numba.checks.arrays import check_array
from robe_numba.checks.ids import INDEX_DTYPES, as_uint64, id_limits, raise_outside
from robe_numba.kernels.cpu.inspect import reads_inside
from robe_numba.kernels.scalar.bags import MODES, SUM, Bags, modes_of
from robe_numba.spec import Spec, check_int

MAX_OFFSET = 2**63 - 1
MAX_NEEDS_ARRAY = (
    "mode 'max' finds the largest element in the array; pass array= as it was in the forward pass"
)


class BagArguments(NamedTuple):
    """Unchecked arguments of `robe_numba.embedding_bag` that describe its bags."""

    indices: Any
    offsets: Any
    mode: Any
    per_sample_weights: Any
    padding_idx: Any

    def arrays(self) -> dict[str, Any]:
        """The arrays among them, by name."""
        arrays = {"indices": self.indices, "offsets": self.offsets}
        if self.per_sample_weights is not None:
            arrays["per_sample_weights"] = self.per_sample_weights
        return arrays


def check_bags(given: BagArguments, spec: Spec, dtype: np.dtype) -> Bags:
    """The bags of a call with NumPy arrays, as kernels take them; `dtype` is the output's."""
    offsets = check_offsets(given.offsets, spec.num_tables)
    check_array("indices", given.indices, None, INDEX_DTYPES)
    check_bag_ids_shape(given.indices)
    modes = check_modes(given.mode, spec.num_tables, given.per_sample_weights is not None)
    weights = np.empty(0, dtype=dtype)
    if given.per_sample_weights is not None:
        shape = (given.indices.size,)
        weights = check_array("per_sample_weights", given.per_sample_weights, shape, (dtype,))
    padding = check_padding(given.padding_idx)
    indices = _check_bag_indices(given.indices, offsets, spec, padding)
    if weights.size:
        check_weights(weights, offsets, modes)
    batch = (offsets.size - 1) // spec.num_tables
    padded, padding_idx = padding is not None, np.uint64(0) if padding is None else padding
    return Bags(indices, offsets, weights, batch, *modes_of(modes), padded, padding_idx)


def check_weights(weights: np.ndarray, offsets: np.ndarray, modes: tuple[int, ...]) -> None:
    """Require weights of 1 in tables that are not pooled by their sum."""
    batch = (offsets.size - 1) // len(modes)
    for table, mode in enumerate(modes):
        if mode == SUM:
            continue
        first, last = offsets[table * batch], offsets[(table + 1) * batch]
        others = np.flatnonzero(weights[first:last] != 1)
        if others.size:
            position = int(first + others[0])
            raise ValueError(
                f"per_sample_weights[{position}] is {weights[position]}, but table {table} has "
                f"another mode than 'sum'; its ids take weights of 1"
            )


def _check_bag_indices(
    indices: Any, offsets: np.ndarray, spec: Spec, padding: np.uint64 | None
) -> np.ndarray:
    """Row ids (n,) of table-major bags as uint64; a padded id is never read, so it may be any."""
    check_bags_span(indices, offsets)
    ids = as_uint64(indices)
    if spec.num_embeddings is None:
        return ids
    limits, padded = id_limits(spec), padding is not None
    if not reads_inside(ids, offsets, limits, padded, padding if padded else np.uint64(0)):
        batch = (offsets.size - 1) // spec.num_tables
        table_sizes = np.diff(offsets[::batch])
        outside = ids >= np.repeat(limits, table_sizes)
        if padding is not None:
            outside &= ids != padding
        position = int(np.argmax(outside))
        table = int(np.searchsorted(np.cumsum(table_sizes), position, side="right"))
        raise_outside(indices[position], f"indices[{position}]", table, spec)
    return ids


def check_bags_span(indices: Any, offsets: np.ndarray) -> None:
    """Require the last offset to be the number of ids."""
    if offsets[-1] != indices.size:
        raise ValueError(
            f"offsets ends at {offsets[-1]} but there are {indices.size} indices; "
            f"the last offset must be the number of indices"
        )


def check_bag_ids_shape(indices: Any) -> None:
    """Require ids of bags to have one dimension, on either device."""
    if len(indices.shape) != 1:
        raise ValueError(f"indices has shape {tuple(indices.shape)}; bags take one dimension (n,)")


def check_padding(padding_idx: Any) -> np.uint64 | None:
    """The padded id as kernels compare it, in two's complement; None for none."""
    if padding_idx is None:
        return None
    return np.uint64(check_int("padding_idx", padding_idx, -(2**63), 2**64 - 1) % 2**64)


def check_offsets(offsets: Any, num_tables: int) -> np.ndarray:
    """Require offsets that begin at 0 and never fall; a copy, int64, for kernels."""
    check_array("offsets", offsets, None, INDEX_DTYPES)
    check_offsets_shape(offsets, num_tables)
    if offsets[0] != 0:
        raise ValueError(f"offsets starts at {offsets[0]}; the first offset must be 0")
    falls = offsets[1:] < offsets[:-1]
    if falls.any():
        bag = int(np.argmax(falls))
        raise ValueError(
            f"offsets falls from {offsets[bag]} to {offsets[bag + 1]} at bag {bag}; "
            f"bag b is indices[offsets[b]:offsets[b + 1]]"
        )
    if int(offsets[-1]) > MAX_OFFSET:
        raise ValueError(f"offsets ends at {offsets[-1]}; it cannot exceed the indices")
    return np.array(offsets, dtype=np.int64)


def check_offsets_shape(offsets: Any, num_tables: int) -> None:
    """Require offsets (num_tables * batch + 1,), on either device."""
    if len(offsets.shape) != 1 or offsets.size == 0 or (offsets.size - 1) % num_tables:
        raise ValueError(
            f"offsets has shape {tuple(offsets.shape)}; expected (num_tables * batch + 1,) with "
            f"num_tables = {num_tables}"
        )


def check_mode(mode: Any, name: str = "mode") -> None:
    """Require a known way to pool."""
    if not isinstance(mode, str) or mode not in MODES:
        raise ValueError(f"{name} is {mode!r}; choose one of {', '.join(MODES)}")


def check_modes(mode: Any, num_tables: int, weighted: bool = False) -> tuple[int, ...]:
    """How each table is pooled, given one mode for all or a sequence of one per table.

    The values of weights, if there are any, are not checked.
    """
    if isinstance(mode, str) or not isinstance(mode, Sequence):
        check_one_mode(mode, weighted)
        return (MODES[mode],) * num_tables
    if len(mode) != num_tables:
        raise ValueError(
            f"mode has {len(mode)} values but there are {num_tables} tables; give one for each "
            f"table, or one string for all"
        )
    for table, one in enumerate(mode):
        check_mode(one, f"mode[{table}]")
    return tuple(MODES[one] for one in mode)


def check_one_mode(mode: Any, weighted: bool) -> None:
    """Require a single way to pool that takes weights if there are any."""
    check_mode(mode)
    if weighted and mode != "sum":
        raise ValueError(f"per_sample_weights go with mode 'sum' alone, got mode {mode!r}")
