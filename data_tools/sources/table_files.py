"""CSV and Parquet files as Arrow columns, with the line of each row."""

import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import accumulate
from types import MappingProxyType
from typing import IO, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from data_tools.errors import ParseError
from data_tools.schema import Schema
from data_tools.sources import list_columns
from data_tools.sources.criteo.parser import MAX_LINE_BYTES, whole_line_error
from data_tools.sources.file_types import DamagedFileError
from data_tools.sources.lines import BOM, TextBlock, first_lines
from data_tools.sources.table_columns import fields_hold
from data_tools.storage.folders import is_remote, map_file, open_input

BATCH_ROWS = 1 << 16
LIST_BATCH_ROWS = 1 << 13  # of a table with lists, whose rows may be long
HEADER_BYTES = 1 << 16
SEPARATORS = (",", "\t", ";", "|")
_LONE_CR = re.compile(rb"\r(?!\n)")
_QUOTED = re.compile(rb'"(?:[^"]|"")*+"')


class BadLine(NamedTuple):
    """A line that is not a row of its table."""

    line: int
    reason: str
    text: str

    def explain(self) -> tuple[str, str]:
        """Return the reason and the text."""
        return self.reason, self.text


class TableRows(NamedTuple):
    """Some rows of a table, and the bad lines before and between them."""

    rows: pa.RecordBatch
    lines: np.ndarray  # int64 (num_rows,), the line of each row
    bad: list[BadLine]
    holds: Mapping[str, str | None] = MappingProxyType({})  # what texts are, by column


class Header(NamedTuple):
    """What the first line of a CSV says."""

    names: list[str]
    separator: str


def table_columns(
    address: str, kind: str, separator: str | None = None, list_separator: str | None = None
) -> list[tuple[str, pa.DataType]]:
    """Names and types of the columns of a table of kind "csv" or "parquet".

    Raises
    ------
    DamagedFileError
        The file cannot be read.
    """
    with reading():
        if kind == "csv":
            text = first_lines(address, HEADER_BYTES)
            header, _ = _read_header(text, separator, list_separator)
            return [(name, pa.binary()) for name in header.names]
        with _parquet(address) as file:
            schema = file.schema_arrow
        return list(zip(schema.names, schema.types, strict=True))


def has_header(address: str, schema: Schema) -> bool:
    """Whether the first line of a text names all feature columns of a schema, by any separator."""
    try:
        with reading():
            header, _ = _read_header(first_lines(address, HEADER_BYTES), None)
    except (DamagedFileError, ParseError):
        return False
    return set(schema.names) - {schema.label} <= set(header.names)


@contextmanager
def reading() -> Iterator[None]:
    """Turn every error of reading into DamagedFileError."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DamagedFileError(str(error)) from error


def _read_header(
    text: bytes, separator: str | None, list_separator: str | None = None
) -> tuple[Header, bytes]:
    """Read the header of a CSV; also returns the text after it. Every field is bytes.

    Arrow guesses types from the first block, so a later block might not fit, and two files of one
    log might differ; an empty field is null.
    """
    end = text.find(b"\n") + 1
    if not text[:end].removeprefix(BOM).strip():
        raise DamagedFileError("the first line is empty, but must name the columns")
    separator = separator or _find_separator(text[:end])
    if separator == list_separator:
        raise DamagedFileError(
            f"header: its fields are separated by {separator!r}, which is the list_separator too; "
            "if that is wrong, give the separator of the fields"
        )
    spoilt = _spoilt(text[: max(end - 1, 0)], separator)
    if spoilt:
        raise DamagedFileError(f"header: {spoilt}")
    options = pa.csv.ParseOptions(delimiter=separator)
    names = pa.csv.read_csv(pa.BufferReader(text[:end]), parse_options=options).schema.names
    return Header(names, separator), text[end:]


def _find_separator(header: bytes) -> str:
    """The only one of SEPARATORS outside of the header's quotes; the comma if there is not one."""
    bare = _QUOTED.sub(b"", header)
    found = [separator for separator in SEPARATORS if separator.encode() in bare]
    return found[0] if len(found) == 1 else ","


class CsvLines:
    """Reads blocks of lines of one CSV file.

    Parameters
    ----------
    address : str
    wanted : list of str
        The columns to read.
    separator : str, optional
        Of the fields; None: what the header has.
    multi_hot : sequence of str
        Columns of lists.
    list_separator : str, optional
        Of their items.
    """

    def __init__(
        self,
        address: str,
        wanted: list[str],
        separator: str | None = None,
        multi_hot: Sequence[str] = (),
        list_separator: str | None = None,
    ) -> None:
        self._wanted = wanted
        with reading():
            text = first_lines(address, HEADER_BYTES)
            self._header, first = _read_header(text, separator)
            rows, _, _ = _parse_lines(first, self._header, wanted)
        columns = {name: rows.column(name) for name in wanted}
        for name in multi_hot:
            _, columns[name] = list_columns.items(columns[name], list_separator)
        self._holds = {name: fields_hold(column) for name, column in columns.items()}

    def read(self, block: TextBlock, line: int) -> TableRows:
        """Rows of a block, which has the header where it is the first; its first line is `line`."""
        text = block.lines.tobytes()
        if block.offset == 0:
            line, text = line + 1, text[text.index(b"\n") + 1 :]
        with reading():
            rows, lines, bad = _parse_lines(text, self._header, self._wanted)
        bad = [each._replace(line=each.line + line) for each in bad]
        return TableRows(rows, lines + line, bad, self._holds)


def _parse_lines(
    text: bytes, header: Header, wanted: list[str]
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
        or _spoilt(last, header.separator)
    )
    rows, wrong = _read_csv(b"" if doubtful else text, header, wanted)
    if rows.num_rows + len(wrong) != len(lines):
        every = text.split(b"\n")[:-1]
        reasons = [_spoilt(each, header.separator) for each in every]
        bad = [
            BadLine(line, reason, every[line][:MAX_LINE_BYTES].decode(errors="replace"))
            for line, reason in enumerate(reasons)
            if reason
        ]
        lines = lines[[reason is None for reason in reasons]]
        text = b"".join(every[line] + b"\n" for line in lines)
        rows, wrong = _read_csv(text, header, wanted)
        if rows.num_rows + len(wrong) != len(lines):
            raise DamagedFileError("rows and lines cannot be told apart; check the quotes")
    bad += [each._replace(line=int(lines[each.line])) for each in wrong]
    return rows, np.delete(lines, [each.line for each in wrong]), bad


def _spoilt(line: bytes, separator: str) -> str | None:
    """Say why `line` (without its LF) is not one row, whatever its fields, or return None."""
    whole = whole_line_error(line)
    if whole:
        return whole
    if _LONE_CR.search(line.removesuffix(b"\r")):
        return "a carriage return inside the line; lines end in LF or CRLF, and no field holds them"
    if not _closed_line(separator).fullmatch(line):
        return "a quote is not closed on its line; no field may hold a line end"
    return None


@cache
def _closed_line(separator: str) -> re.Pattern[bytes]:
    """A line whose quoted fields are all closed; a doubled quote does not close a field."""
    between = re.escape(separator).encode()
    field = rb'(?:"(?:[^"]|"")*+"[^%b]*+|[^"%b][^%b]*+|)' % (between, between, between)
    return re.compile(field + rb"(?:" + between + field + rb")*+")


def _read_csv(
    text: bytes, header: Header, wanted: list[str]
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
        # Arrow tells the line of a bad row only on a single thread.
        read_options=pa.csv.ReadOptions(
            use_threads=False, block_size=len(text) + 1, column_names=header.names
        ),
        parse_options=pa.csv.ParseOptions(
            delimiter=header.separator, invalid_row_handler=skip, ignore_empty_lines=False
        ),
        convert_options=pa.csv.ConvertOptions(
            column_types=dict.fromkeys(wanted, pa.binary()),
            include_columns=wanted,
            null_values=[""],
            strings_can_be_null=True,
        ),
    )
    return pa.RecordBatch.from_struct_array(table.to_struct_array().combine_chunks()), wrong


@contextmanager
def _parquet(address: str) -> Iterator[pa.parquet.ParquetFile]:
    """Open a Parquet file, whose path is mapped and whose fsspec address is read."""
    opened: IO[bytes] = open_input(address) if is_remote(address) else map_file(address)
    with opened as source, pa.parquet.ParquetFile(source) as file:
        yield file


def group_offsets(address: str) -> list[int]:
    """Where each row group of a Parquet file begins, in bytes of all before it, not compressed."""
    with reading(), _parquet(address) as file:
        sizes = [file.metadata.row_group(n).total_byte_size for n in range(file.num_row_groups)]
    if min(sizes, default=0) < 0:
        raise DamagedFileError(f"a row group has {min(sizes)} bytes")
    return [0, *accumulate(sizes)][: len(sizes)]


def parquet_rows(
    address: str, groups: list[int], wanted: list[str]
) -> Generator[TableRows, None, None]:
    """Read the columns `wanted` of some row groups; the line of a row is its number from 1."""
    line = 1
    with reading(), _parquet(address) as file:
        # Inside lists, Arrow does not join the dictionaries of several row groups.
        types = [file.schema_arrow.field(name).type for name in wanted]
        apart = any(map(list_columns.has_dictionaries, types))
        count = LIST_BATCH_ROWS if any(map(list_columns.is_lists, types)) else BATCH_ROWS
        for some in [[group] for group in groups] if apart else [groups]:
            for rows in file.iter_batches(count, row_groups=some, columns=wanted):
                yield TableRows(rows, np.arange(line, line + rows.num_rows), [])
                line += rows.num_rows
