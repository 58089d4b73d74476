"""Columns of a table, of whatever Arrow type, as labels, dense values and ids.

A function here returns the converted column and its faults: the rows that break its rule.
"""

import hashlib
import re
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_tools.criteo_parser import transform_dense

_INTEGER = re.compile(rb"0|-?[1-9][0-9]{,19}")
# What Arrow casts to a number, in the syntax of its own regular expressions.
_NUMBER = r"^[+-]?(([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?|inf|infinity|nan(\([0-9a-z_]*\))?)$"


def text_id(text: bytes) -> int:
    """64-bit id of a text: an integer is its value, other text is hashed, empty text is 0.

    An integer is written as `str` writes it and fits 64 bits, signed (two's complement) or
    unsigned; `007` is no integer. The hash is the first eight bytes of BLAKE2b, little-endian.
    So an id is the same whether a log holds it as a number, as a text, or in a CSV without types.
    """
    if not text:
        return 0
    if _INTEGER.fullmatch(text):
        value = int(text)
        if -(2**63) <= value < 2**64:
            return value % 2**64
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def _is_text(dtype: pa.DataType) -> bool:
    return dtype in (pa.string(), pa.large_string(), pa.binary(), pa.large_binary())


def is_categorical(dtype: pa.DataType) -> bool:
    """Whether a column of this type can hold ids: integers, texts, or nulls alone."""
    if pa.types.is_dictionary(dtype):
        dtype = dtype.value_type
    return pa.types.is_integer(dtype) or pa.types.is_null(dtype) or _is_text(dtype)


def is_number(dtype: pa.DataType) -> bool:
    """Whether a column of this type can hold dense values or labels: bytes are a CSV's fields."""
    types = pa.types
    tests = (types.is_integer, types.is_floating, types.is_decimal, types.is_boolean, types.is_null)
    return dtype == pa.binary() or any(test(dtype) for test in tests)


def numbers(column: pa.Array) -> tuple[np.ndarray, list[int]]:
    """Numbers, or a CSV's fields, as float64 (n,) with NaN for null; faults are no numbers."""
    if column.type == pa.binary():
        texts, faults = pc.cast(column, pa.string()), []
        try:
            column = pc.cast(texts, pa.float64())
        except pa.ArrowInvalid:  # it does not tell which row
            good = pc.match_substring_regex(texts, _NUMBER, ignore_case=True)
            column = pc.cast(pc.if_else(good, texts, None), pa.float64())
            bad = ~pc.fill_null(good, True).to_numpy(zero_copy_only=False)
            faults = np.flatnonzero(bad).tolist()
        return column.to_numpy(zero_copy_only=False), faults
    # Unsafe means: an integer above 2**53 may be rounded.
    return pc.cast(column, pa.float64(), safe=False).to_numpy(zero_copy_only=False), []


def labels(column: pa.Array) -> tuple[np.ndarray, list[int]]:
    """Labels as float32 (n,); faults are rows that are not 0 or 1, null among them."""
    values, _ = numbers(column)
    good = (values == 0) | (values == 1)
    return np.where(good, values, 0).astype(np.float32), np.flatnonzero(~good).tolist()


def dense(column: pa.Array, transform: str) -> tuple[np.ndarray, list[int]]:
    """Transformed dense values, float32 (n,); faults are no numbers, or too large for float32."""
    values, faults = numbers(column)
    out = transform_dense(values, transform)
    infinite = np.isinf(values) | np.isinf(out)
    return out, faults + np.flatnonzero(infinite).tolist()


def ids(column: pa.Array) -> np.ndarray:
    """Ids of a categorical column, uint64 (n,): integers by value, texts by `text_id`, null 0.

    Each distinct text is hashed once. A negative integer is its two's complement.
    """
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_null(column.type):
        return np.zeros(len(column), np.uint64)
    if pa.types.is_integer(column.type):
        values: np.ndarray = pc.fill_null(column, 0).to_numpy()
        return values.astype(np.uint64)
    encoded = column.cast(pa.large_binary()).dictionary_encode()
    distinct: list[Any] = encoded.dictionary.to_pylist()
    table = np.array([text_id(text) for text in distinct] + [0], np.uint64)
    codes: np.ndarray = pc.fill_null(encoded.indices, len(distinct)).to_numpy()
    return table[codes]
