"""Rows of CSV and Parquet, their columns found by name, into a RowBuffer."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType

import numpy as np
import pyarrow as pa

from data_tools.batch import Rows
from data_tools.errors import ParseError
from data_tools.rows import take
from data_tools.schema import Schema
from data_tools.sources import list_columns, table_columns
from data_tools.sources.row_buffer import RowBuffer
from data_tools.sources.table_files import SEPARATORS, TableRows

_AROUND = re.compile(r"^\W+|\W+$")
_REMEDY = "name the columns of the log with Schema (--label, --dense, --categorical, --multi-hot)"
Columns = list[tuple[str, pa.DataType]]  # names and types of the columns of a file
Fault = tuple[str | None, str]  # a column, or None for the whole row, and the rule that it breaks


@dataclass(frozen=True)
class Conversion:
    """How the columns of a table become rows.

    Attributes
    ----------
    schema : Schema
    labelled : bool
        Whether there is a label.
    transform : str
        Of the dense columns, see `Parser`; null is as 0.
    is_csv : bool
        Every field is bytes, and a row of nulls is an empty line.
    list_separator : str or None
        Of the items of lists that are texts.
    """

    schema: Schema
    labelled: bool
    transform: str
    is_csv: bool
    list_separator: str | None = None


def read_rows(table: TableRows, conversion: Conversion, rows: RowBuffer) -> None:
    """Convert some rows of a table into `rows`, which rejects bad ones."""
    batch, faults = convert(table.rows, conversion, table.holds)
    bad: dict[int, Callable[[], tuple[str, str]]]
    bad = {each.line: each.explain for each in table.bad}
    for row, fault in faults.items():
        bad[int(table.lines[row])] = partial(_explain, table.rows, row, *fault)
    for bad_line in sorted(bad):
        rows.reject(bad_line, bad[bad_line])
    if faults:
        batch = take(batch, np.delete(np.arange(len(batch.dense)), list(faults)))
    rows.append(batch)


def with_lists(schema: Schema, columns: Sequence[Columns]) -> Schema:
    """The schema, whose categorical columns that are Arrow lists in a file are multi-hot."""
    kinds = [(name, dtype) for present in columns for name, dtype in present]
    found = {name for name, dtype in kinds if list_columns.is_lists(dtype)}
    moved = tuple(name for name in schema.categorical if name in found)
    if not moved:
        return schema
    kept = tuple(name for name in schema.categorical if name not in found)
    weights = schema.weights and (*schema.weights, *[None] * len(moved))
    return replace(schema, categorical=kept, multi_hot=(*schema.multi_hot, *moved), weights=weights)


def find_columns(
    path: str,
    schema: Schema,
    present: Columns,
    must_be_labelled: bool,
    list_separator: str | None = None,
) -> list[str]:
    """Names of the columns to read; the label is among them where the file has it."""
    names = [name for name, _ in present]
    label = [schema.label] if must_be_labelled or schema.label in names else []
    wanted = [*label, *schema.names[1:]]
    there = f"the file has {_some(names, 20)}"
    missing = [name for name in wanted if name not in names]
    others = [name for name in names if name not in schema.names]
    for name in (schema.label, *missing):
        close = [other for other in others if _spelt_alike(other, name) and name not in names]
        if close:
            reason = f"no column is named {name!r}, but one is named {close[0]!r}"
            raise ParseError(path, 1, f"{reason}; case and spaces count: {_REMEDY}")
    if missing:
        remedy = _REMEDY
        if len(names) == 1 or any(mark in name for name in names for mark in SEPARATORS):
            remedy += ", and what separates its fields with --separator"
        raise ParseError(path, 1, f"no column named {_some(missing, 5)}; {there}; {remedy}")
    twice = [name for name in wanted if names.count(name) > 1]
    if twice:
        raise ParseError(path, 1, f"more than one column named {', '.join(twice)}; {there}")
    types = dict(present)
    for name in wanted:
        is_list = name in schema.multi_hot or name in schema.weights
        check = partial(_misfit_list, list_separator=list_separator) if is_list else _misfit
        misfit = check(name, types[name], schema)
        if misfit:
            raise ParseError(path, 1, f"column {name} {misfit}")
    return wanted


def _misfit(name: str, dtype: pa.DataType, schema: Schema) -> str | None:
    """Why a column of this type cannot hold numbers or single ids."""
    suits, rule = table_columns.is_number(dtype), "numbers, or texts of them"
    if name in schema.categorical:
        suits, rule = table_columns.is_categorical(dtype), "numbers, texts or times"
    remedy = "convert it, or make a column of each of its parts"
    return None if suits else f"is of type {dtype}, but must hold {rule}; {remedy}"


def _misfit_list(
    name: str, dtype: pa.DataType, schema: Schema, list_separator: str | None
) -> str | None:
    """Why a column of this type cannot hold lists, of ids or of weights."""
    is_ids = name in schema.multi_hot
    rule = f"but must hold lists of {'ids' if is_ids else 'numbers'}"
    if table_columns.is_text(table_columns.plain_type(dtype)):
        remedy = "name the character between the items with list_separator (--list-separator)"
        return f"holds texts, {rule}; {remedy}" if list_separator is None else None
    suits = (list_columns.is_lists if is_ids else list_columns.is_weights)(dtype)
    if suits or pa.types.is_null(dtype):
        return None
    remedy = "name a column of single ids with --categorical"
    if not is_ids:
        remedy = "give as many weights as ids in each row"
    return f"is of type {dtype}, {rule}; {remedy}"


def _spelt_alike(name: str, other: str) -> bool:
    """Whether names differ in case and in what surrounds them alone.

    Around them are spaces, and what some programs leave there: `#`, single quotes, a second byte
    order mark.
    """
    return _bare(name) == _bare(other)


def _bare(name: str) -> str:
    return _AROUND.sub("", name).casefold() or name


def _some(names: list[str], most: int) -> str:
    """List the first names, and count the rest."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def convert(
    columns_read: pa.RecordBatch,
    conversion: Conversion,
    holds: Mapping[str, str | None] = MappingProxyType({}),
) -> tuple[Rows, dict[int, Fault]]:
    """Convert columns to rows; also, by row, the column and the rule that it breaks.

    `holds` says of columns of texts what the texts are, see `ids.content`.
    """
    schema, count = conversion.schema, columns_read.num_rows
    broken: dict[int, Fault] = {}

    def note(faults: list[int], name: str, rule: str) -> None:
        for row in faults:
            broken.setdefault(row, (name, rule))

    if conversion.is_csv:
        # Arrow makes a row of nulls of an empty line.
        nulls = np.array([c.is_null().to_numpy(zero_copy_only=False) for c in columns_read])
        empty = np.flatnonzero(nulls.all(axis=0)).tolist()
        broken = dict.fromkeys(empty, (None, "every field is empty"))
    labels = None
    if conversion.labelled:
        labels, faults = table_columns.labels(columns_read.column(schema.label))
        note(faults, schema.label, table_columns.LABEL_RULE)
    dense = np.empty((count, schema.num_dense), np.float32)
    for i, name in enumerate(schema.dense):
        dense[:, i], faults = table_columns.dense(columns_read.column(name), conversion.transform)
        note(faults, name, table_columns.DENSE_RULE)
    indices = np.empty((count, schema.num_categorical), np.uint64)
    for i, name in enumerate(schema.categorical):
        indices[:, i], faults = table_columns.ids(columns_read.column(name), holds.get(name))
        note(faults, name, table_columns.ID_RULE)
    lists = []
    for name, weights in schema.lists:
        weighed = None if weights is None else columns_read.column(weights)
        separator = conversion.list_separator
        found, bad = list_columns.lists(
            columns_read.column(name), weighed, separator, holds.get(name)
        )
        lists.append(found)
        note(bad.ids, name, table_columns.ID_RULE)
        note(bad.counts, weights or name, list_columns.COUNT_RULE)
        note(bad.weights, weights or name, list_columns.WEIGHT_RULE)
    return Rows(labels, dense, indices, tuple(lists)), broken


def _explain(rows: pa.RecordBatch, row: int, name: str | None, rule: str) -> tuple[str, str]:
    """Say why the row is bad, and show its columns by name."""
    values = rows.slice(row, 1).to_pylist()[0]
    for column, value in values.items():
        if isinstance(value, bytes):
            values[column] = value.decode(errors="replace")
    reason = rule if name is None else f"column {name} is {repr(values[name])[:60]}, but {rule}"
    return reason, json.dumps(values, default=str)
