"""The parser reads and writes within its arrays, and long lines are errors."""

import subprocess
import sys

import numpy as np
import pytest

import data_tools
from data_tools.schema import Schema
from data_tools.sources.criteo import kernels
from data_tools.sources.criteo.kernels import OK
from data_tools.sources.criteo.parser import Parser
from data_tools.sources.lines import LineBlocks
from tests.data_tools.sources.test_parser import (
    GOOD,
    SCHEMAS,
    compare,
    ingest_bytes,
    ordinary,
    outputs,
    parse_lines,
)


def parse_between_guards():
    """Parse short texts that lie against pages that may not be touched, at either end."""
    from tests.support.guard_pages import Guard

    digits = [b"1234567890123"[:n] for n in range(14)]
    lasts = digits + [b"-" + number for number in digits] + [b"-", b"g", b"1234567g", b"\t"]
    lasts += [word[:n] for word in (b"NULL", b"\\N", b"NaN", b"nan", b"7.00") for n in range(1, 5)]
    for guard in (Guard(at_end=True), Guard(at_end=False)):
        for schema in SCHEMAS:
            for labelled in (False, True):
                for last in lasts:
                    fields = [b"1"] * labelled + [b""] * (len(schema.names) - 2) + [last]
                    line = b"\t".join(fields)
                    for text in (line + b"\n", line + b"\r\n", last + b"\n", line + b"\n" * 2):
                        for order in "CF":
                            compare(text, schema, labelled, "log1p", order, guard.copy, guard.empty)
    print("done")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="protects pages of memory")
def test_the_parser_stays_within_its_arrays():
    program = (
        "from tests.data_tools.sources import test_parser_bounds\n"
        "test_parser_bounds.parse_between_guards()"
    )
    finished = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", program],
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout == "done\n"


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_call_begins_at_the_row_first_and_fills_the_room(order):
    parser = Parser(SCHEMAS[0], labelled=True, transform="none")
    data = np.frombuffer(GOOD * 4, np.uint8)
    labels, dense, indices = arrays = outputs(SCHEMAS[0], 5, order)
    parsed = parser.parse(data, 0, *arrays, first=3)
    assert parsed == (2, 2 * len(GOOD), OK, 0)
    assert (labels == [77, 77, 77, 1, 1]).all()
    for array, row in ((dense, [5, 0, -2]), (indices, [255, 0, 10, 0, 2**32 - 1])):
        assert (array[:3] == 77).all()
        assert (array[3:] == row).all()
    assert parser.parse(data, parsed.position, *arrays, first=5) == (0, parsed.position, OK, 0)


def test_integers_stay_unsigned():
    compare(GOOD, SCHEMAS[0], True, "log1p")
    for signature in kernels.parse_rows.nopython_signatures:
        assert [str(kind) for kind in signature.return_type][:2] == ["uint64", "uint64"]


def parse_blocks(path, parser, block_bytes):
    """Parse a file of unlabelled lines: rows parsed, numbers of bad lines."""
    rows, bad = 0, []
    for block in LineBlocks(str(path), block_bytes, parser.max_line_bytes):
        found, wrong = parse_lines(parser, block.lines, outputs(parser.schema, 9, "C"))
        bad += [rows + len(bad) + number for number in wrong]
        rows += found
    return rows, bad


@pytest.mark.parametrize("block_bytes", [1, 3, 10, 11, 64, 1000])
@pytest.mark.parametrize("ending", [b"\n", b""])
def test_lines_work_up_to_the_limit_whatever_the_block(tmp_path, block_bytes, ending):
    path = tmp_path / "log.tsv"
    lines = [b"7", b"0" * 10, b"0" * 11, b"1", b"0" * 500, b"", b"2", b"0" * 12]
    path.write_bytes(b"\n".join(lines) + ending)
    parser = Parser(Schema("y", ("a",), ()), labelled=False, transform="none", max_line_bytes=10)
    assert parse_blocks(path, parser, block_bytes) == (5, [3, 5, 8])


def test_the_limit_is_one_mebibyte(tmp_path):
    schema = Schema("y", ("a",), ())
    line = b"0" * (1 << 20)
    text = b"1\n" + line + b"\n2\n"
    sizes = {"block_bytes": 1 << 16, "shard_bytes": 1 << 19}
    dataset = ingest_bytes(text, schema, tmp_path, **sizes)
    assert dataset.num_rows == 3
    text = b"1\n" + line + b"0\n2\n"
    with pytest.raises(data_tools.ParseError, match=r":2: the line is longer than 1,048,576 bytes"):
        ingest_bytes(text, schema, tmp_path, overwrite=True, **sizes)


def test_the_parser_refuses_what_would_read_or_write_outside():
    parser = Parser(SCHEMAS[1], labelled=True, transform="log1p")
    labels, dense, ids = outputs(SCHEMAS[1], 2, "C")
    good = np.frombuffer(b"1\t\t\n", np.uint8)
    with pytest.raises(ValueError, match="end in a line feed"):
        parser.parse(good[:-1], 0, labels, dense, ids)
    with pytest.raises(ValueError, match="must be uint8, one-dimensional and contiguous"):
        parser.parse(np.repeat(good, 2)[1::2], 0, labels, dense, ids)
    with pytest.raises(ValueError, match="start is 5, but data has 4 bytes"):
        parser.parse(good, 5, labels, dense, ids)
    for first in (-1, 3):
        with pytest.raises(ValueError, match=f"first is {first}, but there is room for 2 rows"):
            parser.parse(good, 0, labels, dense, ids, first)
    with pytest.raises(ValueError, match="dense must be C- or F-contiguous float32"):
        parser.parse(good, 0, labels, dense[:1], ids)
    with pytest.raises(ValueError, match="dense must be C- or F-contiguous float32"):
        parser.parse(good, 0, labels, ordinary((4, 2), np.float32)[::2], ids)
    with pytest.raises(ValueError, match="indices must be C- or F-contiguous uint32"):
        parser.parse(good, 0, labels, dense, ids.astype(np.uint64))
