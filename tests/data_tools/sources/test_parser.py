"""The compiled parser against the slow one, for good, mutated and random bytes."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import data_tools
from data_tools.format.manifest import MANIFEST_NAME
from data_tools.options import DENSE_TRANSFORMS
from data_tools.schema import Schema
from data_tools.sources.criteo import byte_words
from data_tools.sources.criteo.kernels import OK
from data_tools.sources.criteo.parser import Parser, transform_dense
from tests.support import slow_parser

# Dense and categorical alone, each last in its line, and both.
SCHEMAS = [
    Schema("y", ("a", "b", "c"), ("p", "q", "r", "s", "t")),
    Schema("y", ("a", "b"), ()),
    Schema("y", (), ("p", "q")),
]
SCHEMA_NAMES = ["both", "dense", "categorical"]
EXACT = ("none", "log-squared")  # a logarithm may differ in its last bit before it is rounded
INTERESTING = b"\t\n\r\0-+.0189afAFgGNUL\\n x\xff\xc3\xa9"

integers = st.one_of(
    st.just(""),
    st.integers(-3, 5000).map(str),
    st.sampled_from([2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64, 10**19, -(10**39)]).map(str),
    st.integers(0, 10**18).map("{:040d}".format),
    st.sampled_from(["NULL", "\\N", "NaN", "nan", "317.0", "-2.000", "0.0", "12.5", ".0", "1."]),
)
hexes = st.one_of(
    st.just(""),
    st.integers(0, 2**32 - 1).map("{:08x}".format),
    st.integers(0, 2**32 - 1).map("{:X}".format),
    st.integers(0, 2**40).map("{:x}".format),
    st.sampled_from(["NULL", "\\N", "NaN", "nan", "nano", "N", "1.0"]),
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
        fields.insert(0, st.sampled_from(["0", "1", "0", "1", "1.0"]))
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


def assert_rows(rows, labels, dense, indices, transform):
    """Compare arrays with rows of the slow parser; `labels` is None for unlabelled ones."""
    if labels is not None:
        np.testing.assert_array_equal(labels, [row[0] for row in rows])
    expected = np.array([row[1] for row in rows], np.float32).reshape(dense.shape)
    np.testing.assert_allclose(dense, expected, rtol=0 if transform in EXACT else 2e-7)
    ids = np.array([row[2] for row in rows], np.uint32).reshape(indices.shape)
    np.testing.assert_array_equal(indices, ids)


def ordinary(shape, dtype):
    """An array with values that no parser writes."""
    return np.full(shape, 77, dtype)


def outputs(schema, room, order, empty=ordinary):
    """Arrays for `room` rows, by rows ("C") or by columns ("F")."""
    arrays = [empty(room, np.float32)]
    for width, dtype in ((schema.num_dense, np.float32), (schema.num_categorical, np.uint32)):
        by_rows = order == "C"
        array = empty((room, width) if by_rows else (width, room), dtype)
        arrays.append(array if by_rows else array.T)
    return arrays


def parse_lines(parser, data, arrays):
    """Parse all lines of `data` into `arrays`: how many rows, the numbers of the bad lines."""
    rows, position, bad = 0, 0, []
    text = data.tobytes()
    while position < data.size:
        parsed = parser.parse(data, position, *arrays, first=rows)
        assert parsed.position > position or parsed.code != OK
        rows += parsed.rows
        position = parsed.position
        if parsed.code != OK:
            assert 0 <= parsed.field < parser.num_fields
            bad.append(rows + len(bad) + 1)
            position = text.index(b"\n", position) + 1
    return rows, bad


def compare(text, schema, labelled, transform, order="C", copy=np.copy, empty=ordinary):
    """Whole lines give what the slow parser makes of them, whatever stands in them."""
    lines = slow_parser.split(text)
    sizes = schema.num_dense, schema.num_categorical
    rows, bad = slow_parser.parse_lines(lines, labelled, *sizes, transform)
    arrays = outputs(schema, len(rows) + 1, order, empty)
    data = copy(np.frombuffer(text, np.uint8))
    assert parse_lines(Parser(schema, labelled, transform), data, arrays) == (len(rows), bad)
    labels, dense, indices = (array[: len(rows)] for array in arrays)
    assert_rows(rows, labels if labelled else None, dense, indices, transform)


def ingest_bytes(text, schema, folder, shard_bytes=40, **options):
    """Ingest `text` from a file, into a dataset whose shards are small."""
    source = folder / "log.tsv"
    source.write_bytes(text)
    data_tools.ingest(source, folder / "out", schema=schema, shard_bytes=shard_bytes, **options)
    return data_tools.Dataset(folder / "out")


def assert_same_rows(dataset, labelled, rows, transform):
    """Compare a dataset with rows of the slow parser."""
    assert dataset.num_rows == len(rows)
    assert dataset.labelled == labelled
    batches = list(dataset.split("all").batches(max(1, len(rows))))
    if not rows:
        assert not batches
        return
    (batch,) = batches
    assert (batch.labels is not None) == labelled
    assert_rows(rows, batch.labels, batch.dense, batch.indices, transform)
    assert batch.indices.dtype == np.uint32


def check_ingest(text, schema, transform, **sizes):
    """Both ways of treating errors give what the slow parser says."""
    labelled, rows, bad = slow_parser.parse(
        text, schema.num_dense, schema.num_categorical, transform
    )
    options = {"dense_transform": transform, **sizes}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if bad or not text:
            with pytest.raises(data_tools.ParseError) as caught:
                ingest_bytes(text, schema, folder, **options)
            assert caught.value.line == (bad[0] if bad else 1)
            assert not (folder / "out" / MANIFEST_NAME).exists()
        else:
            dataset = ingest_bytes(text, schema, folder, **options)
            assert_same_rows(dataset, labelled, rows, transform)
        options |= {"on_error": "skip", "overwrite": True}
        if labelled is None:
            with pytest.raises(data_tools.ParseError):
                ingest_bytes(text, schema, folder, **options)
            return
        dataset = ingest_bytes(text, schema, folder, **options)
        assert_same_rows(dataset, labelled, rows, transform)
        assert dataset.manifest.rejected == len(bad)
        rejects = folder / "out" / dataset.manifest.folder / "rejects.jsonl"
        kept = rejects.read_text().splitlines() if rejects.exists() else []
        assert [json.loads(line)["line"] for line in kept] == bad


@pytest.mark.parametrize("schema", SCHEMAS, ids=SCHEMA_NAMES)
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    data=st.data(),
    block_bytes=st.sampled_from([1, 2, 7, 64, 4096]),
    shard_bytes=st.sampled_from([1, 40, 10**6]),
    transform=st.sampled_from(DENSE_TRANSFORMS),
)
def test_mutated_lines_give_the_rows_and_errors_of_the_slow_parser(
    schema, data, block_bytes, shard_bytes, transform
):
    text = data.draw(texts(schema))
    check_ingest(text, schema, transform, block_bytes=block_bytes, shard_bytes=shard_bytes)


@settings(max_examples=80, deadline=None)
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
    check_ingest(text, SCHEMAS[1], "none", block_bytes=5)


@pytest.mark.parametrize("schema", SCHEMAS, ids=SCHEMA_NAMES)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    data=st.data(),
    labelled=st.booleans(),
    transform=st.sampled_from(DENSE_TRANSFORMS),
    order=st.sampled_from("CF"),
)
def test_whole_lines_of_any_bytes(schema, data, labelled, transform, order):
    some = st.lists(st.sampled_from(list(INTERESTING))).map(bytes)
    text = data.draw(st.one_of(texts(schema), some, st.binary(max_size=200)))
    compare(text + b"\n", schema, labelled, transform, order)


def test_every_byte_at_every_place_of_eight_hexadecimal_digits():
    for digits in (b"00000000", b"9afAF037", b"ffffFFFF"):
        for place in range(8):
            for byte in range(256):
                field = digits[:place] + bytes([byte]) + digits[place + 1 :]
                try:
                    expected = (slow_parser.parse_id(field), True)
                except slow_parser.BadLineError:
                    expected = (None, False)
                word = np.uint64(int.from_bytes(field, "little"))
                value, good = byte_words.hex_word(word)
                assert (value if good else None, good) == expected, field


@pytest.mark.parametrize("ending", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("labelled", [False, True], ids=["unlabelled", "labelled"])
@pytest.mark.parametrize("schema", SCHEMAS, ids=SCHEMA_NAMES)
def test_every_byte_at_every_place_of_a_line(schema, labelled, ending):
    fields = [b"1"] * labelled + [b"1234567", b"-89"][: schema.num_dense]
    fields += [b""] * (schema.num_dense - 2) + [b"fedcba98", b"", b"7f"][: schema.num_categorical]
    fields += [b""] * (schema.num_categorical - 3)
    line = b"\t".join(fields) + ending
    text = b"".join(
        line[:place] + bytes([byte]) + line[place + 1 :]
        for place in range(len(line) - 1)
        for byte in range(256)
    )
    compare(text, schema, labelled, "none")


@pytest.mark.parametrize("transform", DENSE_TRANSFORMS)
def test_numbers_of_any_length(transform):
    digits = ["9" * n for n in range(1, 26)] + ["1" + "0" * n for n in range(25)]
    digits += ["12345678901234567890123456"[:n] for n in range(1, 26)]
    digits += [str(n) for n in range(70)]
    digits += [str(2**k + n) for k in (12, 15, 16, 17, 53, 63, 64) for n in (-2, -1, 0, 1)]
    fields = [
        sign + "0" * zeros + number
        for number in digits
        for zeros in (0, 1, 6, 7, 8, 20)
        for sign in ("", "-")
    ]
    text = "".join(f"{field}\t{other}\n" for field, other in zip(fields, fields[::-1], strict=True))
    compare(text.encode(), SCHEMAS[1], False, transform)


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


def test_transforms_of_numbers_that_are_no_integers():
    values = np.array([[np.nan, -0.5, -1e30], [2.5, 7.4, 1e300]])
    for transform in DENSE_TRANSFORMS:
        found = transform_dense(values, transform)
        assert found.dtype == np.float32
        with np.errstate(over="ignore"):  # 1e300 is infinite as it stands
            expected = [
                np.float32(slow_parser.TRANSFORMS[transform](x)) for x in np.nan_to_num(values).flat
            ]
        np.testing.assert_allclose(found.ravel(), expected, rtol=2e-7)


def test_an_unknown_transform_is_refused():
    message = "is 'log2'; use one of log1p, none, log3, log-squared"
    with pytest.raises(ValueError, match=message):
        Parser(SCHEMAS[1], True, "log2")
    with pytest.raises(ValueError, match=message):
        transform_dense(np.zeros(1), "log2")
