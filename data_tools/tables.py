"""Rows of one CSV or Parquet file, its columns found by name, into a ShardWriter."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from data_tools import columns
from data_tools.batch import Batch, take
from data_tools.errors import ParseError
from data_tools.rejects import Rejects
from data_tools.schema import Schema
from data_tools.shards import ShardWriter
from data_tools.table_files import TableBatch, open_table
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
    kind : str                   "csv" (with a header; one line is one row, so no field has a line
                                 break; gzip where the name ends in .gz) or "parquet".
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
        wanted = _find_columns(path, writer.schema, table.columns, bool(writer.labelled))
        labelled = writer.schema.label in wanted
        writer.agree_on_labels(path, labelled)
        for batch in table.batches(wanted):
            rows, faults = _convert(batch, writer.schema, labelled, kind == "csv", log1p)
            bad: dict[int, Callable[[], tuple[str, str]]]
            bad = {each.line: each.explain for each in batch.bad}
            for row, fault in faults.items():
                bad[int(batch.lines[row])] = partial(_explain, batch.rows, row, *fault)
            for bad_line in sorted(bad):
                rejects.add(path, bad_line, bad[bad_line])
            if faults:
                rows = take(rows, ~np.isin(np.arange(len(rows.dense)), list(faults)))
            writer.append(rows)
            line = int(batch.lines[-1]) + 1 if batch.lines.size else line
            report(batch.bytes_done)
    except DamagedFileError as error:
        reason = f"the {kind} file is not readable here or further on ({error})"
        raise ParseError(path, line, reason) from error


def _find_columns(
    path: Path, schema: Schema, present: list[tuple[str, pa.DataType]], must_be_labelled: bool
) -> list[str]:
    """Names of the columns to read; the label is among them where the file has it."""
    names = [name for name, _ in present]
    label = [schema.label] if must_be_labelled or schema.label in names else []
    wanted = [*label, *schema.dense, *schema.categorical]
    there = f"the file has {_some(names, 20)}"
    missing = [name for name in wanted if name not in names]
    if missing:
        remedy = "name the columns of the log with Schema (--label, --dense, --categorical)"
        raise ParseError(path, 1, f"no column named {_some(missing, 5)}; {there}; {remedy}")
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
    return wanted


def _some(names: list[str], most: int) -> str:
    """List the first names, and count the rest."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def _convert(
    batch: TableBatch, schema: Schema, labelled: bool, is_csv: bool, log1p: bool
) -> tuple[Batch, dict[int, tuple[str | None, str]]]:
    """Convert all columns of `batch`; also, by row, the column and the rule that it breaks."""
    count = batch.rows.num_rows
    broken: dict[int, tuple[str | None, str]] = {}

    def note(faults: list[int], name: str, rule: str) -> None:
        for row in faults:
            broken.setdefault(row, (name, rule))

    if is_csv:
        # Arrow makes a row of nulls of an empty line.
        nulls = np.array([column.is_null().to_numpy(zero_copy_only=False) for column in batch.rows])
        empty = np.flatnonzero(nulls.all(axis=0)).tolist()
        broken = dict.fromkeys(empty, (None, "every field is empty"))
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
        indices[:, i] = columns.ids(batch.rows.column(name))
    return Batch(labels, dense, indices), broken


def _explain(rows: pa.RecordBatch, row: int, name: str | None, rule: str) -> tuple[str, str]:
    """Say why the row is bad, and show its columns by name."""
    values = rows.slice(row, 1).to_pylist()[0]
    for column, value in values.items():
        if isinstance(value, bytes):
            values[column] = value.decode(errors="replace")
    reason = rule if name is None else f"column {name} is {repr(values[name])[:60]}, but {rule}"
    return reason, json.dumps(values, default=str)
