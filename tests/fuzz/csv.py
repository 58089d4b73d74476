"""Any bytes as a CSV in memory: the rows and bad lines of the slow parser, whatever the sizes.

python -m tests.fuzz.csv -runs=1000000 CORPUS
"""

import io
from typing import Any
from unittest.mock import patch

import pytest

from tests.fuzz import harness
from tests.support import slow_csv

with harness.guided(__name__):
    from data_tools.batch import Batch
    from data_tools.schema import Schema
    from data_tools.sources import lines as lines_module
    from data_tools.sources import row_buffer
    from data_tools.sources.file_types import DamagedFileError
    from data_tools.sources.lines import LineBlocks
    from data_tools.sources.row_buffer import BadLineError, RowBuffer
    from data_tools.sources.table_files import SEPARATORS, CsvLines
    from data_tools.sources.table_rows import Conversion, read_rows

SCHEMA = Schema("y", ("a",), ("p",))
ADDRESS = "log.csv"
HEAD = 4  # bytes of a case that are not its lines

Rows = list[tuple[Any, ...]]  # label, dense value, id


def case_bytes(
    lines: bytes, skip: bool = False, blocks: int = 1, block_rows: int = 1, separator: str = ","
) -> bytes:
    """Make the bytes of a case; each of its blocks costs a call of Arrow, so there are few."""
    return bytes([skip, blocks - 1, block_rows - 1, SEPARATORS.index(separator)]) + lines


def read(text: bytes, skip: bool, block_bytes: int, block_rows: int) -> tuple[Rows, list[int]]:
    """Rows and bad lines of a file.

    Raises
    ------
    BadLineError : a bad line that is not tolerated.
    DamagedFileError : rows and lines cannot be told apart.
    """
    found: Rows = []

    def write(batch: Batch) -> None:
        assert batch.labels is not None
        columns = (batch.labels, batch.dense[:, 0], batch.indices[:, 0])
        found.extend(zip(*(column.tolist() for column in columns), strict=True))

    rows = RowBuffer(SCHEMA, "uint64", True, block_rows, "C", write, skip)
    with (
        patch.object(lines_module, "open_input", lambda address: io.BytesIO(text)),
        patch.object(row_buffer, "MAX_KEPT", len(text)),
    ):
        lines = CsvLines(ADDRESS, list(SCHEMA.names))
        for block in LineBlocks(ADDRESS, block_bytes):
            table = lines.read(block, rows.lines + 1)
            read_rows(table, Conversion(SCHEMA, True, "none", True), rows)
            rows.lines += block.count_lines()
    rows.flush()
    assert rows.rejected == len(rows.rejects)
    assert all(reject["reason"].strip() for reject in rows.rejects)
    return found, [reject["line"] for reject in rows.rejects]


def check(data: bytes) -> None:
    """Read the case and compare; raises AssertionError, or what reading should not raise."""
    head, lines = data[:HEAD].ljust(HEAD, b"\0"), data[HEAD:]
    separator = SEPARATORS[head[3] % len(SEPARATORS)].encode()
    text = separator.join([b"y", b"a", b"p"]) + b"\n" + lines
    sizes = len(text) // (head[1] % 4 + 1) + 1, head[2] % 16 + 1
    try:
        rows, bad = slow_csv.parse(lines, separator)
    except slow_csv.UnstatedError:
        check_sizes(text, *sizes)
        return
    if bad and not head[0] % 2:
        with pytest.raises(BadLineError) as stopped:
            read(text, False, *sizes)
        assert stopped.value.line == bad[0], f"{stopped.value}, expected line {bad[0]}"
        return
    found = read(text, True, *sizes)
    assert found == (rows, bad), f"{found}, expected {rows}, {bad}"


def check_sizes(text: bytes, *sizes: int) -> None:
    """The sizes of blocks change nothing."""
    found = []
    for block_bytes, block_rows in (sizes, (len(text) + 1, 1)):
        try:
            found.append(read(text, True, block_bytes, block_rows))
        except DamagedFileError as error:
            found.append(str(error))
    assert found[0] == found[1], f"{found[0]}, but with other sizes {found[1]}"


SEEDS = [
    case_bytes(b'1,2,"a""b"\r\n0,,x\n1,1e3\n', True, 4, 6),
    case_bytes(b"1,2.0,12.0\n0,NULL,\n1,\\N,7\n"),
    case_bytes(b"1;2;12\n0;3;12.5\n", True, 1, 1, ";"),
    case_bytes(b"1\t2\t12.0\n0\t3\t9007199254740992.0\n", True, 9, 3, "\t"),
    case_bytes(b"True|2|0001\nfalse|-1|v1.5\nx|1|1\n\n||\n", True, 1, 1, "|"),
    case_bytes(b'"\n1,1,1\n1,2,"\n', False, 3, 6),
    case_bytes(b"1,1,18446744073709551615\n1,1,-9223372036854775809\n1,1e39,1e+3\n", True),
]

if __name__ == "__main__":
    harness.fuzz(check, SEEDS)
