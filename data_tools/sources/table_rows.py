"""Rows of CSV and Parquet, their columns found by name, into a RowBuffer."""

import json
import re
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import numpy as np
import pyarrow as pa

from data_tools.batch import Rows, take
from data_tools.errors import ParseError
from data_tools.schema import Schema
from data_tools.sources import table_columns
from data_tools.sources.row_buffer import RowBuffer
from data_tools.sources.table_files import SEPARATORS, TableRows

_AROUND = re.compile(r"^\W+|\W+$")
_REMEDY = "name the columns of the log with Schema (--label, --dense, --categorical)"


def read_rows(
    table: TableRows,
    schema: Schema,
    labelled: bool,
    transform: str,
    is_csv: bool,
    rows: RowBuffer,
) -> None:
    """Convert some rows of a table into `rows`, which rejects bad ones.

    Parameters
    ----------
    table : TableRows
        The columns of the schema, and the label where `labelled`.
    transform : str
        Of the dense columns, see `Parser`; null is as 0.
    is_csv : bool
        Every field is bytes, and a row of nulls is an empty line.
    """
    batch, faults = convert(table.rows, schema, labelled, is_csv, transform, table.holds)
    bad: dict[int, Callable[[], tuple[str, str]]]
    bad = {each.line: each.explain for each in table.bad}
    for row, fault in faults.items():
        bad[int(table.lines[row])] = partial(_explain, table.rows, row, *fault)
    for bad_line in sorted(bad):
        rows.reject(bad_line, bad[bad_line])
    if faults:
        batch = take(batch, np.delete(np.arange(len(batch.dense)), list(faults)))
    rows.append(batch)


def find_columns(
    path: str, schema: Schema, present: list[tuple[str, pa.DataType]], must_be_labelled: bool
) -> list[str]:
    """Names of the columns to read; the label is among them where the file has it."""
    names = [name for name, _ in present]
    label = [schema.label] if must_be_labelled or schema.label in names else []
    wanted = [*label, *schema.dense, *schema.categorical]
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
        categorical = name in schema.categorical
        suits = table_columns.is_categorical if categorical else table_columns.is_number
        if not suits(types[name]):
            rule = "numbers, texts or times" if categorical else "numbers, or texts of them"
            remedy = "convert it, or make a column of each of its parts"
            reason = f"column {name} is of type {types[name]}, but must hold {rule}; {remedy}"
            raise ParseError(path, 1, reason)
    return wanted


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
    schema: Schema,
    labelled: bool,
    is_csv: bool,
    transform: str,
    holds: Mapping[str, str | None] = MappingProxyType({}),
) -> tuple[Rows, dict[int, tuple[str | None, str]]]:
    """Convert columns to rows; also, by row, the column and the rule that it breaks.

    `holds` says of columns of texts what the texts are, see `ids.content`.
    """
    count = columns_read.num_rows
    broken: dict[int, tuple[str | None, str]] = {}

    def note(faults: list[int], name: str, rule: str) -> None:
        for row in faults:
            broken.setdefault(row, (name, rule))

    if is_csv:
        # Arrow makes a row of nulls of an empty line.
        nulls = np.array([c.is_null().to_numpy(zero_copy_only=False) for c in columns_read])
        empty = np.flatnonzero(nulls.all(axis=0)).tolist()
        broken = dict.fromkeys(empty, (None, "every field is empty"))
    labels = None
    if labelled:
        labels, faults = table_columns.labels(columns_read.column(schema.label))
        note(faults, schema.label, table_columns.LABEL_RULE)
    dense = np.empty((count, schema.num_dense), np.float32)
    for i, name in enumerate(schema.dense):
        dense[:, i], faults = table_columns.dense(columns_read.column(name), transform)
        note(faults, name, table_columns.DENSE_RULE)
    indices = np.empty((count, schema.num_categorical), np.uint64)
    for i, name in enumerate(schema.categorical):
        indices[:, i], faults = table_columns.ids(columns_read.column(name), holds.get(name))
        note(faults, name, table_columns.ID_RULE)
    return Rows(labels, dense, indices), broken


def _explain(rows: pa.RecordBatch, row: int, name: str | None, rule: str) -> tuple[str, str]:
    """Say why the row is bad, and show its columns by name."""
    values = rows.slice(row, 1).to_pylist()[0]
    for column, value in values.items():
        if isinstance(value, bytes):
            values[column] = value.decode(errors="replace")
    reason = rule if name is None else f"column {name} is {repr(values[name])[:60]}, but {rule}"
    return reason, json.dumps(values, default=str)
