"""Columns of a table, of any Arrow type, as labels, dense values and ids.

A function here returns the converted column and its faults: the rows that break its rule.
docs/logs.md has the table of types.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_tools.sources.criteo.parser import transform_dense
from data_tools.sources.text_ids import EXACT_FLOATS, MISSING, content, uuid_texts, value_ids

LABEL_RULE = "the label must be 0 or 1"
DENSE_RULE = "a dense field must be empty or a finite number"
ID_RULE = (
    "a column of numbers must hold whole ids (floats below 2**53, float32 below 2**24, as larger "
    "ones are rounded); store ids as integers or as text in Parquet, or name the column as dense"
)
# What Arrow casts to a number, in the syntax of its own regular expressions.
_NUMBER = r"^[+-]?(([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?|inf|infinity|nan(\([0-9a-z_]*\))?)$"
_TRUE, _FALSE = ((b"True", b"true", b"TRUE"), (b"False", b"false", b"FALSE"))


def is_text(dtype: pa.DataType) -> bool:
    """Whether a column of this type holds texts or bytes."""
    types = pa.types
    tests = (
        types.is_string, types.is_large_string, types.is_string_view,
        types.is_binary, types.is_large_binary, types.is_binary_view, types.is_fixed_size_binary,
    )  # fmt: skip
    return any(test(dtype) for test in tests)


def is_number(dtype: pa.DataType) -> bool:
    """Whether a column of this type can hold dense values or labels: numbers, or texts of them."""
    types, dtype = pa.types, plain_type(dtype)
    tests = (types.is_integer, types.is_floating, types.is_decimal, types.is_boolean, types.is_null)
    return is_text(dtype) or any(test(dtype) for test in tests)


def is_categorical(dtype: pa.DataType) -> bool:
    """Whether a column of this type can hold ids."""
    types = pa.types
    tests = (types.is_date, types.is_time, types.is_timestamp)
    dtype = plain_type(dtype)
    return is_number(dtype) or dtype == pa.uuid() or any(test(dtype) for test in tests)


def plain_type(dtype: pa.DataType) -> pa.DataType:
    """Type of the values: of a dictionary or an extension type, what is behind it."""
    if pa.types.is_dictionary(dtype):
        return plain_type(dtype.value_type)
    if isinstance(dtype, pa.BaseExtensionType) and dtype != pa.uuid():
        return plain_type(dtype.storage_type)
    return dtype


def plain(column: pa.Array) -> pa.Array:
    """The column in its `plain_type`."""
    if pa.types.is_dictionary(column.type):
        return plain(column.dictionary_decode())
    if isinstance(column, pa.ExtensionArray) and column.type != pa.uuid():
        return plain(column.storage)
    return column


def numbers(column: pa.Array) -> tuple[np.ndarray, list[int]]:
    """Numbers, or texts of them, as float64 (n,) with NaN for null; faults are not numbers."""
    column = plain(column)
    if not is_text(column.type):
        # Unsafe means: an integer above 2**53 may be rounded.
        return pc.cast(column, pa.float64(), safe=False).to_numpy(zero_copy_only=False), []
    try:
        values = pc.cast(pc.cast(column, pa.string()), pa.float64())
        return values.to_numpy(zero_copy_only=False), []
    except pa.ArrowInvalid:  # it does not tell which row
        return _odd_numbers(column.cast(pa.large_binary()))


def _odd_numbers(texts: pa.Array) -> tuple[np.ndarray, list[int]]:
    """`numbers` of bytes that are not all numbers: some are missing, True or False, or faults."""
    written = pc.match_substring_regex(texts, _NUMBER, ignore_case=True)
    kept = pc.cast(pc.if_else(written, texts, None), pa.large_string())
    values = pc.cast(kept, pa.float64()).to_numpy(zero_copy_only=False).copy()
    good = pc.fill_null(written, True).to_numpy(zero_copy_only=False).copy()
    for words, value in ((MISSING, np.nan), (_TRUE, 1.0), (_FALSE, 0.0)):
        among = pc.is_in(texts, pa.array(sorted(words), pa.large_binary()))
        rows = among.to_numpy(zero_copy_only=False)
        values[rows] = value
        good |= rows
    return values, np.flatnonzero(~good).tolist()


def labels(column: pa.Array) -> tuple[np.ndarray, list[int]]:
    """Labels as float32 (n,); faults are rows that are not 0 or 1, null among them."""
    values, _ = numbers(column)
    good = (values == 0) | (values == 1)
    return np.where(good, values, 0).astype(np.float32), np.flatnonzero(~good).tolist()


def dense(column: pa.Array, transform: str) -> tuple[np.ndarray, list[int]]:
    """Transformed dense values, float32 (n,); faults are not numbers, or too large for float32."""
    values, faults = numbers(column)
    out = transform_dense(values, transform)
    infinite = np.isinf(values) | np.isinf(out)
    return out, faults + np.flatnonzero(infinite).tolist()


def fields_hold(fields: pa.Array) -> str | None:
    """What some fields of a CSV's column, bytes, are, see `ids.content`."""
    return content(pc.unique(fields.drop_null()).to_pylist())


def ids(column: pa.Array, holds: str | None = None) -> tuple[np.ndarray, list[int]]:
    """Ids of a categorical column, uint64 (n,): numbers by value, others by `text_id`, null 0.

    Faults are floats that cannot be ids; among texts, only if the column `holds` numbers. Each
    distinct text is hashed once. A negative integer is its two's complement.
    """
    column = plain(column)
    kind = column.type
    if pa.types.is_null(kind):
        return np.zeros(len(column), np.uint64), []
    if pa.types.is_integer(kind):
        values: np.ndarray = pc.fill_null(column, 0).to_numpy()
        return values.astype(np.uint64), []
    if pa.types.is_floating(kind):
        return _float_ids(column)
    if pa.types.is_decimal(kind) and kind.bit_width < 128:  # Arrow has no dictionaries of these
        column = column.cast(pa.decimal128(kind.precision, kind.scale))
    elif kind == pa.uuid():
        column = column.storage
    elif is_text(kind):
        column = column.cast(pa.large_binary())
    encoded = column.dictionary_encode()
    distinct = uuid_texts(encoded.dictionary) if kind == pa.uuid() else encoded.dictionary
    found, faults = value_ids(distinct, holds)
    codes: np.ndarray = pc.fill_null(encoded.indices, len(found)).to_numpy()
    table = np.array([*found, 0], np.uint64)
    return table[codes], np.flatnonzero(np.isin(codes, faults)).tolist() if faults else []


def _float_ids(column: pa.Array) -> tuple[np.ndarray, list[int]]:
    limit = {16: 2**11, 32: 2**24, 64: EXACT_FLOATS}[column.type.bit_width]
    values = pc.fill_null(pc.cast(column, pa.float64()), 0).to_numpy()
    values = np.where(np.isnan(values), 0, values)
    good = (np.abs(values) < limit) & (values == np.trunc(values))
    found = np.where(good, values, 0).astype(np.int64).astype(np.uint64)
    return found, np.flatnonzero(~good).tolist()
