"""CSV and Parquet files as batches of Arrow columns, with the line of each row."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from data_tools.criteo_parser import MAX_LINE_BYTES, whole_line_error
from data_tools.text_reader import GZIP_ERRORS, DamagedFileError, LineBlocks, first_lines

BATCH_ROWS = 1 << 16
CSV_BLOCK_BYTES = 4 << 20
_LONE_CR = re.compile(rb"\r(?!\n)")
# A field that begins with a quote is quoted, up to a quote that is not doubled.
_FIELD = rb'(?:"(?:[^"]|"")*+"[^,]*+|[^",][^,]*+|)'
_CLOSED_LINE = re.compile(_FIELD + rb"(?:," + _FIELD + rb")*+")


class BadLine(NamedTuple):
    """A line that is no row of its table."""

    line: int
    reason: str
    text: str

    def explain(self) -> tuple[str, str]:
        """Return the reason and the text."""
        return self.reason, self.text


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
    text = first_lines(path, CSV_BLOCK_BYTES)
    header = text[: text.find(b"\n") + 1]
    spoilt = _spoilt(header[:-1])
    if spoilt:
        raise DamagedFileError(f"header: {spoilt}")
    names = pa.csv.read_csv(pa.BufferReader(header)).schema.names
    return TableFile(
        [(name, pa.binary()) for name in names], lambda wanted: _csv_batches(path, names, wanted)
    )


def _csv_batches(path: Path, names: list[str], wanted: list[str]) -> Iterator[TableBatch]:
    """Read the columns `wanted` of `names`; the header is line 1."""
    blocks = LineBlocks(path, CSV_BLOCK_BYTES)
    line = 1
    with _reading():
        for block in blocks:
            text = block.tobytes()
            if line == 1:
                line, text = 2, text[text.index(b"\n") + 1 :]
            rows, lines, bad = _parse_lines(text, names, wanted)
            bad = [each._replace(line=each.line + line) for each in bad]
            yield TableBatch(rows, lines + line, bad, blocks.bytes_done)
            line += text.count(b"\n")


def _parse_lines(
    text: bytes, names: list[str], wanted: list[str]
) -> tuple[pa.RecordBatch, np.ndarray, list[BadLine]]:
    """Rows of whole lines, the line of each row from 0, and the bad lines.

    One line is one row. To Arrow a carriage return ends a line, and a quoted field may hold line
    ends, so that a quote which nothing closes swallows lines. Where its count of rows differs from
    that of lines, or might, every line is looked at, and Arrow gets those that it cannot mistake.
    """
    bad: list[BadLine] = []
    ends = np.flatnonzero(np.frombuffer(text, np.uint8) == ord("\n"))
    lines = np.arange(ends.size)
    longest = np.diff(ends, prepend=-1).max(initial=1) - 1
    last = text[text.rfind(b"\n", 0, -1) + 1 : -1]  # it has no line after it to swallow
    doubtful = (
        longest > MAX_LINE_BYTES
        or whole_line_error(text, len(text))
        or _LONE_CR.search(text)
        or _spoilt(last)
    )
    rows, wrong = _read_csv(b"" if doubtful else text, names, wanted)
    if rows.num_rows + len(wrong) != len(lines):
        every = text.split(b"\n")[:-1]
        reasons = [_spoilt(each) for each in every]
        bad = [
            BadLine(line, reason, every[line][:MAX_LINE_BYTES].decode(errors="replace"))
            for line, reason in enumerate(reasons)
            if reason
        ]
        lines = lines[[reason is None for reason in reasons]]
        text = b"".join(every[line] + b"\n" for line in lines)
        rows, wrong = _read_csv(text, names, wanted)
        if rows.num_rows + len(wrong) != len(lines):
            raise DamagedFileError("rows and lines cannot be told apart; see to the quotes")
    bad += [each._replace(line=int(lines[each.line])) for each in wrong]
    return rows, np.delete(lines, [each.line for each in wrong]), bad


def _spoilt(line: bytes) -> str | None:
    """Say why `line` (without its LF) is not one row, whatever its fields, or return None."""
    whole = whole_line_error(line)
    if whole:
        return whole
    if _LONE_CR.search(line.removesuffix(b"\r")):
        return "a carriage return inside the line; lines end in LF or CRLF, and no field holds them"
    if not _CLOSED_LINE.fullmatch(line):
        return "a quote is not closed on its line; no field may hold a line end"
    return None


def _read_csv(
    text: bytes, names: list[str], wanted: list[str]
) -> tuple[pa.RecordBatch, list[BadLine]]:
    """Columns `wanted` of lines without a header; by row from 0, those of a wrong field count."""
    wrong: list[BadLine] = []

    def skip(row: Any) -> str:
        reason = f"expected {row.expected_columns} fields, found {row.actual_columns}"
        wrong.append(BadLine(row.number - 1, reason, row.text))
        return "skip"

    if not text:
        empty = [pa.array([], pa.binary())] * len(wanted)
        return pa.record_batch(empty, names=wanted), wrong
    table = pa.csv.read_csv(
        pa.BufferReader(text),
        # Only a single thread tells the line of a bad row.
        read_options=pa.csv.ReadOptions(
            use_threads=False, block_size=len(text) + 1, column_names=names
        ),
        parse_options=pa.csv.ParseOptions(invalid_row_handler=skip, ignore_empty_lines=False),
        convert_options=pa.csv.ConvertOptions(
            column_types=dict.fromkeys(wanted, pa.binary()),
            include_columns=wanted,
            null_values=[""],
            strings_can_be_null=True,
        ),
    )
    return pa.RecordBatch.from_struct_array(table.to_struct_array().combine_chunks()), wrong


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
