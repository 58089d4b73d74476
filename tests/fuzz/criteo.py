"""Any bytes as Criteo text in memory: the rows and bad lines of the slow parser, or an error.

    python -m tests.fuzz.criteo -runs=1000000 CORPUS

Files, shards and what lies between the readers are the affair of `tests.fuzz.ingest`.
"""

import io
import warnings
from typing import Any, NamedTuple
from unittest.mock import patch

import numba
import numpy as np
import pytest

from tests.fuzz import harness

with harness.guided(__name__):
    from data_tools.batch import Batch
    from data_tools.errors import ParseError
    from data_tools.schema import CRITEO, Schema
    from data_tools.sources import lines as lines_module
    from data_tools.sources import row_buffer
    from data_tools.sources.criteo import byte_words, kernels
    from data_tools.sources.criteo import parser as parser_module
    from data_tools.sources.criteo.parser import MAX_LINE_BYTES, Parser
    from data_tools.sources.criteo.reader import is_labelled, read_lines
    from data_tools.sources.file_types import HEAD_BYTES, DamagedFileError, other_than_text
    from data_tools.sources.lines import LineBlocks
    from data_tools.sources.row_buffer import BadLineError, RowBuffer
    from tests.support import slow_parser

SCHEMAS = [
    Schema("y", ("a", "b"), ("p", "q", "r")),
    Schema("y", ("a",), ()),
    Schema("y", (), ("p", "q")),
    CRITEO,
]
BOM = b"\xef\xbb\xbf"
ADDRESS = "log.tsv"
HEAD = 6  # bytes of a case that are not its text


class Case(NamedTuple):
    """What `check` makes of its bytes, one byte for all but the last."""

    schema: Schema
    skip: bool  # bad lines
    block_bytes: int  # 1 to 255, or all at once
    block_rows: int  # 1 to 16
    longest: int  # line that is allowed: 1 to 255, or as everywhere
    cut: int  # byte at which a second shard begins; 0: there is one
    text: bytes


def case_bytes(
    text: bytes,
    schema: int = 0,
    skip: bool = False,
    block_bytes: int = 0,
    block_rows: int = 1,
    longest: int = 0,
    cut: int = 0,
) -> bytes:
    """Make the bytes of a case; 0 stands for the largest size, `schema` is a number."""
    return bytes([schema, skip, block_bytes, block_rows - 1, longest, cut]) + text


def read_case(data: bytes) -> Case:
    """Undo `case_bytes`, for whatever bytes."""
    head, text = data[:HEAD].ljust(HEAD, b"\0"), data[HEAD:]
    return Case(
        SCHEMAS[head[0] % len(SCHEMAS)],
        bool(head[1] % 2),
        head[2] or len(text) + 1,
        head[3] % 16 + 1,
        head[4] or MAX_LINE_BYTES,
        head[5] % (len(text) + 1),
        text,
    )


Row = tuple[Any, list[float], list[int]]  # label or None, dense values, ids


def slow_rows(
    text: bytes, schema: Schema, longest: int
) -> tuple[bool | None, list[Row], list[int]]:
    """What the slow parser says, with the rules for whole files added: labelled, rows, bad lines.

    Dense values are as float32 holds them.
    """
    whole = text if text.endswith(b"\n") else text + b"\n"
    if other_than_text(whole[:HEAD_BYTES]):
        return None, [], [1]
    sizes = schema.num_dense, schema.num_categorical
    labelled, rows, bad = slow_parser.parse(text, *sizes, "none")
    if labelled is None:
        return None, [], bad
    lines = slow_parser.split(text)
    if lines[0].startswith(BOM):
        lines[0] = lines[0][len(BOM) :]
    lines = [b"?" if len(line) > longest else line for line in lines]
    rows, bad = slow_parser.parse_lines(lines, labelled, *sizes, "none")
    rounded = [(y, [float(np.float32(x)) for x in dense], ids) for y, dense, ids in rows]
    return labelled, rounded, bad


def read(case: Case, labelled: bool) -> tuple[list[Row], list[int]]:
    """Rows and bad lines of a text, which is read as two shards where the case says so.

    Raises
    ------
    BadLineError : a bad line that is not tolerated, counted from the beginning of the text.
    """
    found: list[Row] = []

    def write(batch: Batch) -> None:
        labels = [None] * len(batch.dense) if batch.labels is None else batch.labels.tolist()
        found.extend(zip(labels, batch.dense.tolist(), batch.indices.tolist(), strict=True))

    parser = Parser(case.schema, labelled, "none", case.longest)
    bad: list[int] = []
    before = kept = 0
    for begin, end in [(0, case.cut), (case.cut, None)] if case.cut else [(0, None)]:
        rows = RowBuffer(case.schema, "uint32", labelled, case.block_rows, "C", write, case.skip)
        blocks = LineBlocks(ADDRESS, case.block_bytes, case.longest, begin, end)
        try:
            for block in blocks:
                read_lines(parser, block, rows)
        except BadLineError as error:
            raise BadLineError(before + error.line, error.reason) from None
        rows.flush()
        assert rows.rejected == len(rows.rejects)
        bad += [before + reject["line"] for reject in rows.rejects]
        assert all(reject["reason"].strip() for reject in rows.rejects)
        before += rows.lines
        kept += rows.rows
    assert kept == len(found)
    return found, bad


def check(data: bytes) -> None:
    """Read the case and compare; raises AssertionError, or what reading should not raise."""
    case = read_case(data)
    labelled, rows, bad = slow_rows(case.text, case.schema, case.longest)
    with (
        patch.object(lines_module, "open_input", lambda address: io.BytesIO(case.text)),
        patch.object(row_buffer, "MAX_KEPT", len(case.text)),
    ):
        if labelled is None:
            with pytest.raises((ParseError, DamagedFileError)):
                is_labelled(ADDRESS, case.schema)
            return
        assert is_labelled(ADDRESS, case.schema) == labelled
        if bad and not case.skip:
            with pytest.raises(BadLineError) as stopped:
                read(case, labelled)
            assert stopped.value.line == bad[0], f"{stopped.value}, expected line {bad[0]}"
            assert stopped.value.reason.strip()
            return
        found = read(case, labelled)
    assert found == (rows, bad), f"{found}, expected {rows}, {bad}"


LINES = b"1\t5\t-7\tff\t\t1A\n0\t\t12345678901\t\tFFFFFFFF\t0\r\n"
SEEDS = [
    case_bytes(LINES),
    case_bytes(LINES.replace(b"5", b"5.0").replace(b"-7", b"NULL").replace(b"ff", b"\\N")),
    case_bytes(LINES + b"2\tx\n" + LINES.rstrip(), 0, True, 1, 1, 0, 30),
    case_bytes(LINES.replace(b"5", b"9" * 40) + b"\0", 0, False, 7, 16, 20),
    case_bytes(BOM + b"1\t2\n0\t-0\n1\t9223372036854775807\n", 1, True, 3, 5, 12, 4),
    case_bytes(b"aB\t\n00000001\t7\n", 2, True, 2, 3, 0, 9),
    case_bytes(b"\t".join([b"1"] * 40) + b"\n", 3),
]


def make_kernels_plain() -> None:
    """Without compilation, give the kernels what only compiled code can do, and less to look up."""

    def load_word(data: np.ndarray, position: np.uint64) -> np.uint64:
        first = int(position)
        assert first + 8 <= data.size, "a word outside the buffer"
        return np.uint64(int.from_bytes(data[first : first + 8].tobytes(), "little"))

    def trailing_zeros(word: np.uint64) -> np.uint64:
        assert word
        return np.uint64((int(word) & -int(word)).bit_length() - 1)

    for name in ("parse_rows", "parse_odd_rows"):
        kernel = getattr(kernels, name)
        setattr(parser_module, name, lambda *args, kernel=kernel: tuple(map(int, kernel(*args))))
    kernels.load_word = load_word
    kernels.trailing_zeros = byte_words.trailing_zeros = trailing_zeros
    parser_module.SMALL_VALUES = 64
    warnings.filterwarnings("ignore", "overflow encountered", RuntimeWarning)


if numba.config.DISABLE_JIT:
    make_kernels_plain()

if __name__ == "__main__":
    harness.fuzz(check, SEEDS)
