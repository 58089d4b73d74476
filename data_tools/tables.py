"""Rows of one CSV or Parquet file, its columns found by name, into a ShardWriter."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

from data_tools import columns
from data_tools.batch import Batch, take
from data_tools.errors import ParseError
from data_tools.rejects import Rejects
from data_tools.schema import Schema
from data_tools.shards import ShardWriter
from data_tools.table_files import BadLine, TableBatch, open_table
from data_tools.text_reader import DamagedFileError


def read_table(
    path: Path,
    kind: str,
    writer: ShardWriter,
    rejects: Rejects,
    *,
    log1p: bool,
    report: Callable[[int], None],
) -> None:
    """Append the rows of the CSV or Parquet file `path` to `writer`.

    A file without the label column is unlabelled. Columns that the schema lacks are not read.

    Parameters
    ----------
    path : Path
    kind : str                   "csv" (with a header, no line breaks within fields; gzip where the
                                 name ends in .gz) or "parquet".
    writer : ShardWriter         Its index dtype is uint64.
    rejects : Rejects            Receives the bad lines; of Parquet, the bad rows.
    log1p : bool                 Dense becomes log(max(x, 0) + 1); else x. Null is 0 in both.
    report : callable            Called with the bytes of the file read so far.

    Raises
    ------
    ParseError : a bad line that `rejects` does not tolerate; the file is damaged; a column is
        missing or of a wrong type; labels are there and were not before, or the reverse.
    """
    line = 1
    try:
        table = open_table(path, kind)
        wanted, labelled = _find_columns(path, writer.schema, table.columns)
        writer.agree_on_labels(path, 1, labelled)
        for batch in table.batches(wanted):
            rows, faults = _convert(batch, writer.schema, labelled, kind == "csv", log1p)
            for bad in sorted(batch.bad + faults):
                rejects.add(path, *bad)
            if faults:
                rows = take(rows, ~np.isin(batch.lines, [bad.line for bad in faults]))
            writer.append(rows)
            line = int(batch.lines[-1]) + 1 if batch.lines.size else line
            report(batch.bytes_done)
    except DamagedFileError as error:
        reason = f"the {kind} file is not readable here or further on ({error})"
        raise ParseError(path, line, reason) from error


def _find_columns(
    path: Path, schema: Schema, present: list[tuple[str, pa.DataType]]
) -> tuple[list[str], bool]:
    """Names of the columns to read, and whether the label is among them."""
    names = [name for name, _ in present]
    labelled = schema.label in names
    wanted = [*([schema.label] if labelled else []), *schema.dense, *schema.categorical]
    there = f"the file has {', '.join(names)}"
    missing = [name for name in wanted if name not in names]
    if missing:
        raise ParseError(path, 1, f"no column named {', '.join(missing)}; {there}")
    twice = [name for name in wanted if names.count(name) > 1]
    if twice:
        raise ParseError(path, 1, f"more than one column named {', '.join(twice)}; {there}")
    types = dict(present)
    for name in wanted:
        categorical = name in schema.categorical
        suits = columns.is_categorical if categorical else columns.is_number
        if not suits(types[name]):
            rule = "integers or texts" if categorical else "numbers"
            reason = f"column {name} is of type {types[name]}, but must hold {rule}; convert it"
            raise ParseError(path, 1, reason)
    return wanted, labelled


def _convert(
    batch: TableBatch, schema: Schema, labelled: bool, is_csv: bool, log1p: bool
) -> tuple[Batch, list[BadLine]]:
    """Convert all columns of `batch`: its rows, and those that must be left out."""
    count = batch.rows.num_rows
    reasons: dict[int, str] = {}

    def note(faults: list[int], name: str, rule: str) -> None:
        for row in faults:
            value = batch.rows.column(name)[row].as_py()
            found = repr(value.decode(errors="replace") if isinstance(value, bytes) else value)
            reasons.setdefault(row, f"column {name} is {found[:60]}, but {rule}")

    if is_csv:
        # Arrow makes a row of nulls of an empty line.
        nulls = np.array([column.is_null().to_numpy(zero_copy_only=False) for column in batch.rows])
        reasons = dict.fromkeys(np.flatnonzero(nulls.all(axis=0)).tolist(), "every field is empty")
    labels = None
    if labelled:
        labels, faults = columns.labels(batch.rows.column(schema.label))
        note(faults, schema.label, "the label must be 0 or 1")
    dense = np.empty((count, schema.num_dense), np.float32)
    for i, name in enumerate(schema.dense):
        dense[:, i], faults = columns.dense(batch.rows.column(name), log1p)
        note(faults, name, "a dense field must be empty or a finite number")
    indices = np.empty((count, schema.num_categorical), np.uint64)
    for i, name in enumerate(schema.categorical):
        column = batch.rows.column(name)
        if is_csv:
            column, faults = columns.decode(column)
            note(faults, name, "it is not UTF-8")
        indices[:, i] = columns.ids(column, columns.csv_id if is_csv else columns.hash_text)
    bad = [
        BadLine(int(batch.lines[row]), reason, _text(batch.rows, row))
        for row, reason in reasons.items()
    ]
    return Batch(labels, dense, indices), bad


def _text(rows: pa.RecordBatch, row: int) -> str:
    """Show a row's columns by name."""
    values = rows.slice(row, 1).to_pylist()[0]
    for name, value in values.items():
        if isinstance(value, bytes):
            values[name] = value.decode(errors="replace")
    return json.dumps(values, default=str)
