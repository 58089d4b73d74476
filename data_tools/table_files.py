"""CSV and Parquet files as batches of Arrow columns, with the line of each row."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from data_tools.text_reader import GZIP_ERRORS, DamagedFileError, open_source

BATCH_ROWS = 1 << 16
CSV_BLOCK_BYTES = 4 << 20


class BadLine(NamedTuple):
    """A line that is no row of its table."""

    line: int
    reason: str
    text: str


class TableBatch(NamedTuple):
    """Some rows of a table, and the bad lines before and between them."""

    rows: pa.RecordBatch
    lines: np.ndarray  # int64 (num_rows,), the line of each row
    bad: list[BadLine]
    bytes_done: int  # of the file, as it lies on disk


class TableFile(NamedTuple):
    """An open table: the names and types of its columns, and a reader of some of them."""

    columns: list[tuple[str, pa.DataType]]
    batches: Callable[[list[str]], Iterator[TableBatch]]


def open_table(path: Path, kind: str) -> TableFile:
    """Open a table of kind "csv" or "parquet".

    Raises
    ------
    DamagedFileError : the file cannot be read; the batches raise it as well.
    """
    with _reading():
        return _open_csv(path) if kind == "csv" else _open_parquet(path)


@contextmanager
def _reading() -> Iterator[None]:
    """Turn every error of reading into one."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError, *GZIP_ERRORS) as error:
        raise DamagedFileError(str(error)) from error


def _open_csv(path: Path) -> TableFile:
    """Read the header. Every field is bytes, whatever the first rows look like.

    Arrow guesses types from the first block, so a later block might not fit, and two files of one
    log might differ; an empty field is null.
    """
    text, raw = open_source(path)
    with raw:
        names = _csv_reader(text, [], []).schema.names
    return TableFile(
        [(name, pa.binary()) for name in names], lambda wanted: _csv_batches(path, wanted)
    )


def _csv_reader(text: Any, wanted: list[str], bad: list[BadLine]) -> pa.csv.CSVStreamingReader:
    """Reader of the columns `wanted` (none: all); lines of a wrong field count go to `bad`."""

    def skip(row: Any) -> str:
        reason = f"expected {row.expected_columns} fields, found {row.actual_columns}"
        bad.append(BadLine(row.number, reason, row.text))
        return "skip"

    return pa.csv.open_csv(
        text,
        # Only a single thread tells the line of a bad row.
        read_options=pa.csv.ReadOptions(use_threads=False, block_size=CSV_BLOCK_BYTES),
        parse_options=pa.csv.ParseOptions(invalid_row_handler=skip, ignore_empty_lines=False),
        convert_options=pa.csv.ConvertOptions(
            column_types=dict.fromkeys(wanted, pa.binary()),
            include_columns=wanted,
            null_values=[""],
            strings_can_be_null=True,
        ),
    )


def _csv_batches(path: Path, wanted: list[str]) -> Iterator[TableBatch]:
    """Read the columns `wanted`; the header is line 1."""
    found: list[BadLine] = []  # Arrow may be a block ahead of the batch it hands out
    line = 2
    text, raw = open_source(path)
    with raw, _reading():
        for rows in _csv_reader(text, wanted, found):
            # The lines from `line` on that are not bad belong to the rows.
            lines = np.arange(line, line + rows.num_rows + len(found))
            lines = lines[~np.isin(lines, [bad.line for bad in found])][: rows.num_rows]
            if rows.num_rows:
                line = int(lines[-1]) + 1
            yield TableBatch(rows, lines, [bad for bad in found if bad.line < line], raw.tell())
            found[:] = [bad for bad in found if bad.line >= line]
    if found:
        empty = pa.record_batch([pa.array([], pa.binary())] * len(wanted), names=wanted)
        yield TableBatch(empty, np.arange(0), found, path.stat().st_size)


def _open_parquet(path: Path) -> TableFile:
    """Read the footer."""
    with pa.parquet.ParquetFile(path) as file:
        schema = file.schema_arrow
    return TableFile(
        list(zip(schema.names, schema.types, strict=True)),
        lambda wanted: _parquet_batches(path, wanted),
    )


def _parquet_batches(path: Path, wanted: list[str]) -> Iterator[TableBatch]:
    """Read the columns `wanted`; the line of a row is its number from 1."""
    size, line = path.stat().st_size, 1
    with _reading(), pa.parquet.ParquetFile(path) as file:
        total = max(1, file.metadata.num_rows)
        for rows in file.iter_batches(BATCH_ROWS, columns=wanted):
            lines = np.arange(line, line + rows.num_rows)
            line += rows.num_rows
            yield TableBatch(rows, lines, [], size * (line - 1) // total)
