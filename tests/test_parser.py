"""The compiled parser against the slow one, for good, mutated and random bytes."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import data_tools
from data_tools.criteo_parser import OK, Parser
from data_tools.schema import Schema
from data_tools.text_reader import LineBlocks
from tests import slow_parser

# Dense and categorical alone, each last in its line, and both.
SCHEMAS = [
    Schema("y", ("a", "b", "c"), ("p", "q", "r", "s", "t")),
    Schema("y", ("a", "b"), ()),
    Schema("y", (), ("p", "q")),
]
INTERESTING = b"\t\n\r\0-+0189afAFgG x\xff\xc3\xa9"

integers = st.one_of(
    st.just(""),
    st.integers(-3, 5000).map(str),
    st.sampled_from([2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64, 10**19, -(10**39)]).map(str),
    st.integers(0, 10**18).map("{:040d}".format),
)
hexes = st.one_of(
    st.just(""),
    st.integers(0, 2**32 - 1).map("{:08x}".format),
    st.integers(0, 2**32 - 1).map("{:X}".format),
    st.integers(0, 2**40).map("{:x}".format),
)
mutations = st.lists(
    st.tuples(
        st.sampled_from(["replace", "insert", "delete"]),
        st.integers(0, 10**6),
        st.sampled_from(list(INTERESTING)),
    ),
    max_size=3,
)


@st.composite
def texts(draw, schema):
    """Lines, most of them good; then a few bytes replaced, inserted or deleted."""
    labelled = draw(st.booleans())
    fields = [integers] * schema.num_dense + [hexes] * schema.num_categorical
    if labelled:
        fields.insert(0, st.sampled_from("01"))
    lines = draw(st.lists(st.tuples(*fields).map("\t".join), max_size=6))
    ends = draw(st.lists(st.sampled_from(["\n", "\r\n"]), min_size=len(lines), max_size=len(lines)))
    text = bytearray("".join(map("".join, zip(lines, ends, strict=True))).encode())
    for kind, place, byte in draw(mutations):
        place %= len(text) + 1
        if kind == "insert":
            text.insert(place, byte)
        elif place < len(text):
            text[place : place + 1] = b"" if kind == "delete" else bytes([byte])
    if draw(st.booleans()):
        text = text.rstrip(b"\r\n")  # the last newline may be missing
    return bytes(text)


def ingest_bytes(text, schema, folder, **options):
    """Ingest `text` from a file, into a dataset whose shards are small."""
    source = folder / "log.tsv"
    source.write_bytes(text)
    data_tools.ingest(source, folder / "out", schema=schema, shard_rows=3, **options)
    return data_tools.Dataset(folder / "out")


def assert_same_rows(dataset, labelled, rows, log1p):
    """Compare a dataset with rows of the slow parser."""
    assert dataset.num_rows == len(rows)
    assert dataset.labelled == labelled
    batches = list(dataset.split("all").batches(max(1, len(rows))))
    if not rows:
        assert not batches
        return
    labels, dense, ids = zip(*rows, strict=True)
    (batch,) = batches
    if labelled:
        np.testing.assert_array_equal(batch.labels, labels)
    else:
        assert batch.labels is None
    # A logarithm may differ in its last bit before it is rounded.
    expected = np.array(dense).astype(np.float32)
    np.testing.assert_allclose(batch.dense, expected, rtol=2e-7 if log1p else 0)
    np.testing.assert_array_equal(batch.indices, np.array(ids, np.uint32))
    assert batch.indices.dtype == np.uint32


def check(text, schema, block_bytes, log1p):
    """Both ways of treating errors give what the slow parser says."""
    labelled, rows, bad = slow_parser.parse(text, schema.num_dense, schema.num_categorical, log1p)
    options = {
        "block_bytes": block_bytes,
        "dense_transform": "log1p" if log1p else "none",
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if bad or not text:
            with pytest.raises(data_tools.ParseError) as caught:
                ingest_bytes(text, schema, folder, **options)
            assert caught.value.line == (bad[0] if bad else 1)
            assert not (folder / "out").exists()
        else:
            assert_same_rows(ingest_bytes(text, schema, folder, **options), labelled, rows, log1p)
        options |= {"on_error": "skip", "overwrite": True}
        if labelled is None:
            with pytest.raises(data_tools.ParseError):
                ingest_bytes(text, schema, folder, **options)
            return
        dataset = ingest_bytes(text, schema, folder, **options)
        assert_same_rows(dataset, labelled, rows, log1p)
        assert dataset.manifest.rejected == len(bad)
        rejects = folder / "out" / "rejects.jsonl"
        kept = rejects.read_text().splitlines() if rejects.exists() else []
        assert [json.loads(line)["line"] for line in kept] == bad


@pytest.mark.parametrize("schema", SCHEMAS, ids=["both", "dense", "categorical"])
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), block_bytes=st.sampled_from([1, 2, 7, 64, 4096]), log1p=st.booleans())
def test_mutated_lines_give_the_rows_and_errors_of_the_slow_parser(
    schema, data, block_bytes, log1p
):
    check(data.draw(texts(schema)), schema, block_bytes, log1p)


@settings(max_examples=150, deadline=None)
@given(text=st.lists(st.sampled_from(list(INTERESTING))).map(bytes))
@example(text=b"")
@example(text=b"\n")
@example(text=b"\r")
@example(text=b"0\t1\r\t\n")
@example(text=b"0\t-\t\n")
@example(text=b"1\t\t\n\n1\t\t\n")
@example(text=b"01\t\t\n")
@example(text=b"\t\r\r\n")
def test_any_bytes_give_the_rows_and_errors_of_the_slow_parser(text):
    check(text, SCHEMAS[1], 5, log1p=False)


GOOD = b"1\t5\t\t-2\t000000ff\t\tA\t0\tffffffff\n"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"2\t5\t\t\t\t\t\t\t", "'2', but the label must be 0 or 1"),
        (b"0\t5\t1.5\t\t\t\t\t\t", "field 3 (b) is '1.5', but a dense field must be empty or an"),
        (b"0\t" + b"9" * 40 + b"\t\t\t\t\t\t\t", "(a) is '" + "9" * 40 + "', which does not fit"),
        (b"0\t\t\t\tfffffffg\t\t\t\t", "(p) is 'fffffffg', but a categorical field must be"),
        (b"0\t\t\t\t\t\t\t\t123456789", "(t) is '123456789', which has more than 8"),
        (b"0\t1\t2", "expected 9 fields (labelled), found 3"),
        (b"0\t\t\t\t\t\t\t\t\t", "expected 9 fields (labelled), found 10"),
        (b"", "expected 9 fields (labelled), found 1"),
        (b"0\t\t\t\t\xff\t\t\t\t", "not UTF-8: byte 0xff at byte 6"),
        (b"0\t\t\t\t\0\t\t\t\t", "NUL byte at byte 6"),
    ],
)
def test_the_error_names_file_line_and_rule(tmp_path, line, reason):
    text = GOOD * 4 + line + b"\n" + GOOD
    with pytest.raises(data_tools.ParseError) as caught:
        ingest_bytes(text, SCHEMAS[0], tmp_path, block_bytes=16)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'log.tsv'}:5: ")
    assert reason in message


def parse_blocks(path, parser, block_bytes):
    """Parse a file of unlabelled lines: rows parsed, numbers of bad lines."""
    rows, bad = 0, []
    for block in LineBlocks(path, block_bytes, parser.max_line_bytes):
        start = 0
        while start < block.size:
            room = (np.zeros(9, np.float32), np.zeros((9, 1), np.float32))
            parsed = parser.parse(block, start, *room, np.zeros((9, 0), np.uint32))
            rows += parsed.rows
            start = parsed.position
            if parsed.code != OK:
                bad.append(rows + len(bad) + 1)
                start = block.tobytes().index(b"\n", start) + 1
    return rows, bad


@pytest.mark.parametrize("block_bytes", [1, 3, 10, 11, 64, 1000])
@pytest.mark.parametrize("ending", [b"\n", b""])
def test_lines_work_up_to_the_limit_whatever_the_block(tmp_path, block_bytes, ending):
    path = tmp_path / "log.tsv"
    lines = [b"7", b"0" * 10, b"0" * 11, b"1", b"0" * 500, b"", b"2", b"0" * 12]
    path.write_bytes(b"\n".join(lines) + ending)
    parser = Parser(Schema("y", ("a",), ()), labelled=False, log1p=False, max_line_bytes=10)
    assert parse_blocks(path, parser, block_bytes) == (5, [3, 5, 8])


def test_the_limit_is_one_mebibyte(tmp_path):
    schema = Schema("y", ("a",), ())
    line = b"0" * (1 << 20)
    text = b"1\n" + line + b"\n2\n"
    dataset = ingest_bytes(text, schema, tmp_path, block_bytes=1 << 16)
    assert dataset.num_rows == 3
    text = b"1\n" + line + b"0\n2\n"
    with pytest.raises(data_tools.ParseError, match=r":2: the line is longer than 1,048,576 bytes"):
        ingest_bytes(text, schema, tmp_path, overwrite=True)


def test_log1p_of_any_integer():
    values = [0, 1, 2, 4094, 4095, 4096, 10**6, 2**53 + 1, 2**63 - 1, -1, -(2**63)]
    data = np.frombuffer("".join(f"{value}\n" for value in values).encode(), np.uint8)
    dense = np.zeros((len(values), 1), np.float32)
    none = np.zeros(len(values), np.float32), np.zeros((len(values), 0), np.uint32)
    parser = Parser(Schema("y", ("a",), ()), labelled=False, log1p=True)
    assert parser.parse(data, 0, none[0], dense, none[1]).rows == len(values)
    expected = np.log(np.maximum(np.array(values, np.float64), 0) + 1)
    np.testing.assert_allclose(dense[:, 0], expected, rtol=1e-7)


def test_the_parser_refuses_what_would_read_or_write_outside():
    parser = Parser(SCHEMAS[1], labelled=True, log1p=True)
    labels, dense, ids = (
        np.zeros(2, np.float32),
        np.zeros((2, 2), np.float32),
        np.zeros((2, 0), "u4"),
    )
    good = np.frombuffer(b"1\t\t\n", np.uint8)
    with pytest.raises(ValueError, match="end in a line feed"):
        parser.parse(good[:-1], 0, labels, dense, ids)
    with pytest.raises(ValueError, match="start is 5, but data has 4 bytes"):
        parser.parse(good, 5, labels, dense, ids)
    with pytest.raises(ValueError, match="dense must be C-contiguous float32"):
        parser.parse(good, 0, labels, dense[:1], ids)
    with pytest.raises(ValueError, match="indices must be C-contiguous uint32"):
        parser.parse(good, 0, labels, dense, ids.astype(np.uint64))
