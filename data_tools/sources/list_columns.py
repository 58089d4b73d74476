"""Multi-hot columns of a table, Arrow lists or texts with a separator, as lists of ids.

docs/logs.md has the rules.
"""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_tools.batch import Lists
from data_tools.sources import table_columns
from data_tools.sources.text_ids import MISSING

COUNT_RULE = "a row must have as many weights as ids"
WEIGHT_RULE = "weights must be finite numbers"


class Faults(NamedTuple):
    """Rows that break a rule about ids, about the number of weights, or about their values."""

    ids: list[int]
    counts: list[int]
    weights: list[int]


def is_lists(dtype: pa.DataType) -> bool:
    """Whether a column of this type holds lists of ids."""
    item = _item_type(dtype)
    return item is not None and table_columns.is_categorical(item)


def is_weights(dtype: pa.DataType) -> bool:
    """Whether a column of this type holds lists of numbers."""
    item = _item_type(dtype)
    return item is not None and table_columns.is_number(item)


def has_dictionaries(dtype: pa.DataType) -> bool:
    """Whether a column of this type holds lists whose items are dictionary-encoded."""
    item = _item_type(dtype)
    return item is not None and pa.types.is_dictionary(item)


def _item_type(dtype: pa.DataType) -> pa.DataType | None:
    """Type of the items of lists; None for other types."""
    types, dtype = pa.types, table_columns.plain_type(dtype)
    tests = (
        types.is_list, types.is_large_list, types.is_fixed_size_list,
        types.is_list_view, types.is_large_list_view,
    )  # fmt: skip
    return dtype.value_type if any(test(dtype) for test in tests) else None


def items(column: pa.Array, separator: str | None) -> tuple[np.ndarray, pa.Array]:
    """Length of each list, int64 (n,), and the items of all; a missing one is empty.

    Texts are split at the separator, where there is one.
    """
    column = table_columns.plain(column)
    if pa.types.is_null(column.type):
        return np.zeros(len(column), np.int64), pa.nulls(0)
    if _item_type(column.type) is None:
        texts = column.cast(pa.large_binary())
        missing = pc.is_in(texts, pa.array(MISSING, pa.large_binary()))
        column = pc.split_pattern(pc.if_else(missing, None, texts), separator)
    lengths: np.ndarray = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    return lengths.astype(np.int64), column.flatten()


def lists(
    column: pa.Array, weights: pa.Array | None, separator: str | None, holds: str | None
) -> tuple[Lists, Faults]:
    """Lists of a column and of that of its weights, where it has one; `holds` as of `ids`."""
    lengths, found = items(column, separator)
    ids, faults = table_columns.ids(found, holds)
    bad_ids = _rows_of(faults, lengths)
    if weights is None:
        return Lists(ids, _offsets(lengths)), Faults(bad_ids, [], [])
    counts, found = items(weights, separator)
    wide, _ = table_columns.numbers(found)
    with np.errstate(over="ignore"):
        numbers = wide.astype(np.float32)
    bad_weights = _rows_of(np.flatnonzero(~np.isfinite(numbers)), counts)
    same = lengths == counts
    unequal = np.flatnonzero(~same).tolist()
    if unequal:  # ids and weights share their offsets, so such a row keeps neither
        ids, numbers = ids[np.repeat(same, lengths)], numbers[np.repeat(same, counts)]
        lengths = np.where(same, lengths, 0)
    return Lists(ids, _offsets(lengths), numbers), Faults(bad_ids, unequal, bad_weights)


def _rows_of(places: np.ndarray | list[int], lengths: np.ndarray) -> list[int]:
    """The rows of some items."""
    rows: list[int] = np.searchsorted(np.cumsum(lengths), places, side="right").tolist()
    return rows


def _offsets(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)])
