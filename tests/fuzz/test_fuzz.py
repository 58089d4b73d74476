"""Structured junk against the slow parsers, by the same checks that atheris runs."""

import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.fuzz import criteo, csv, file_types, ingest, json_files, shards
from tests.fuzz.criteo import BOM, SCHEMAS
from tests.fuzz.ingest import GZIP_MAGIC, TABLE, Case, case_bytes, check

MEBIBYTE = 1 << 20
MISSING = (b"NULL", b"\\N", b"NaN", b"nan", b"NUL", b"NULLL", b"Nan", b"\\", b"N")

numbers = st.one_of(
    st.just(b""),
    st.integers(-9, 99).map(lambda number: b"%d" % number),
    st.sampled_from(
        [
            b"9" * 40,
            b"0" * 40,
            b"-" + b"0" * 38 + b"7",
            b"-0",
            b"-",
            b"1.5",
            b"+1",
            b"1.0",
            b"-0.00",
            b"7.",
            b".0",
            b"0.01",
            *MISSING,
        ]
    ),
    st.sampled_from([2**63 - 1, 2**63, -(2**63), -(2**63) - 1]).map(lambda n: b"%d" % n),
)
ids = st.one_of(
    st.just(b""),
    st.integers(0, 2**32 - 1).map(lambda number: b"%08X" % number),
    st.integers(0, 2**32 - 1).map(lambda number: b"%x" % number),
    st.sampled_from([b"aBcDeF09", b"123456789", b"0" * 9, b"fffffffg", b"0x1", *MISSING]),
)
junk = st.sampled_from(
    [
        b"\0",
        b"\n",
        b"\r",
        b"\t",
        b"\r\r\n",
        b" ",
        b"-",
        b"\x80",
        b"\xff",
        b"9" * 40,
        b"A" * 300,
        BOM,
    ]
)
ends = st.sampled_from([b"\n", b"\n", b"\r\n"])
sizes = st.one_of(st.sampled_from([1, 2, 7]), st.integers(0, 255))
# What stands before the first line.
beginnings = st.sampled_from([b""] * 12 + [BOM, BOM, BOM[:2], GZIP_MAGIC])


@st.composite
def contents(draw, schema):
    """Lines of the schema, most of them good, some of them spoilt, the last perhaps unfinished."""
    fields = [numbers] * schema.num_dense + [ids] * schema.num_categorical
    if draw(st.booleans()):
        fields.insert(0, st.sampled_from([b"0", b"1", b"1", b"2", b"", b"1.0"]))
    line = st.tuples(st.tuples(*fields).map(b"\t".join), ends).map(b"".join)
    text = bytearray(draw(beginnings) + b"".join(draw(st.lists(line, max_size=8))))
    for place in draw(st.lists(st.integers(0, len(text)), max_size=3)):
        text[place : place + draw(st.integers(0, 2))] = draw(junk)
    if draw(st.booleans()):
        text = text.removesuffix(b"\n")
    return bytes(text)


@st.composite
def cases(draw, forms=("text", "gzip"), schemas=(0, 0, 1, 1, 2, 3)):
    """The bytes of a case."""
    schema = draw(st.sampled_from(schemas))
    return case_bytes(
        draw(contents(SCHEMAS[schema])),
        draw(st.sampled_from(forms)),
        schema,
        draw(st.booleans()),
        draw(sizes),
        draw(sizes) + 1,
        draw(st.sampled_from([0, 0, 0, 5, 20, 60])),
        draw(st.integers(0, 2**16 - 1)),
    )


@pytest.fixture
def digits_without_limit():
    """The slow parser may make an integer of a whole mebibyte."""
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    yield
    sys.set_int_max_str_digits(before)


@pytest.mark.parametrize("target", [file_types, criteo, csv, ingest, json_files, shards])
def test_the_seeds_of_the_fuzzers(target):
    for seed in target.SEEDS:
        target.check(seed)


@st.composite
def cases_in_memory(draw):
    """The bytes of a case of Criteo text."""
    schema = draw(st.sampled_from([0, 0, 1, 1, 2, 3]))
    options = draw(st.tuples(st.booleans(), sizes, st.integers(1, 16), sizes, sizes))
    return criteo.case_bytes(draw(contents(SCHEMAS[schema])), schema, *options)


@settings(max_examples=100)
@given(case=cases_in_memory())
def test_spoilt_text_in_memory_gives_the_rows_and_errors_of_the_slow_parser(case):
    criteo.check(case)


@settings(max_examples=80)
@given(case=cases())
# A byte order mark before a line that is too long, or just not.
@example(case=case_bytes(BOM + b"0" * 50 + b"7\n1\n", "text", 1, False, 1, 256, 20))
@example(case=case_bytes(BOM + b"0" * 19 + b"7\n1\n", "text", 1, False, 1, 256, 20))
def test_spoilt_text_gives_the_rows_and_errors_of_the_slow_parser(case):
    check(case)


@settings(max_examples=100)
@given(case=cases(forms=("cut gzip", "flipped gzip")))
@example(case=case_bytes(GZIP_MAGIC, "flipped gzip", 1, True, 1, 2, 0, 29))  # gzip twice, intact
def test_damaged_gzip_is_an_error_or_the_rows(case):
    check(case)


csv_bytes = st.sampled_from([b"0", b"1", b"1", b",", b",", b"\n", b'"', b"\r", b"\0", b"\xff"])
csv_texts = st.sampled_from(
    [b"\r\n", b'""', b"1,2,3\n", b"0,,a\n", b'1,4,"x,y"\n', b"9" * 40, b"-1e3", b"nan"]
)


csv_content = st.lists(csv_bytes | csv_texts, max_size=30).map(b"".join)


@settings(max_examples=100)
@given(csv_content, st.booleans(), st.integers(1, 4), st.integers(1, 16), st.sampled_from(",\t;|"))
def test_spoilt_csv_gives_the_rows_and_errors_of_the_slow_parser(
    content, skip, blocks, block_rows, separator
):
    lines = content.replace(b",", separator.encode())
    csv.check(csv.case_bytes(lines, skip, blocks, block_rows, separator))


@settings(max_examples=40)
@given(
    content=csv_content,
    skip=st.booleans(),
    block_bytes=sizes,
    shard_bytes=sizes,
    place=st.sampled_from([1, 1, 1, 0]),
)
def test_sizes_change_nothing_in_spoilt_csv(content, skip, block_bytes, shard_bytes, place):
    check(case_bytes(content, "csv", 0, skip, block_bytes, shard_bytes + 1, 0, place))


streams = st.builds(
    file_types.case_bytes,
    contents(SCHEMAS[1]) | st.binary(max_size=40),
    st.sampled_from(["", *file_types.STREAMS]),
    st.sampled_from(file_types.DAMAGES),
    st.integers(0, 2**16 - 1),
    st.integers(0, 2),
    st.booleans(),
)


@settings(max_examples=120)
@given(streams)
def test_streams_are_read_whole_or_not_at_all(case):
    file_types.check(case)


@settings(max_examples=100)
@given(st.binary(min_size=5, max_size=60))
def test_edited_json_is_read_or_its_file_is_named(case):
    json_files.check(case)


@settings(max_examples=200)
@given(
    st.integers(0, len(shards.FORMS) - 1),
    st.lists(
        st.tuples(st.integers(0, 4000), st.sampled_from([0, 1, 127, 128, 255])),
        min_size=1,
        max_size=4,
    ),
)
def test_an_edited_shard_is_refused_or_safe(form, edits):
    shards.check(shards.case_bytes(form, *edits))


@pytest.mark.parametrize("form", range(len(shards.FORMS)))
def test_every_byte_of_a_shard_may_be_wrong(form):
    size = len(shards.shard(*shards.FORMS[form])[0])
    for place in range(size):
        shards.check(shards.case_bytes(form, (place, 37 * place % 256)))


TRICKY = (
    b"1\t5\t-7\tff\t\t1A\n"
    b"0\t\t\t\t\t\r\n"
    b"1\t" + b"9" * 40 + b"\t1\t\t\t\n"
    b"\n"
    b"0\t9223372036854775807\t-0\tFFFFFFFF\t00000000\taBcDeF09\n"
    b"1\t1\t2\t\0\t\t\n"
    b"0\t" + b"0" * 60 + b"7\t3\t\t\t\r\n"
    b"1\t1\t1\t1\t1\n"
    b"0\t-\t\t\t\t\n"
    b"1\t\t-9223372036854775808\t\t\t7"
)


@pytest.mark.parametrize("block_bytes", [1, 7, len(TRICKY)])
@pytest.mark.parametrize("longest", [40, MEBIBYTE])
def test_shards_may_end_at_every_byte(tmp_path, block_bytes, longest):
    for shard_bytes in range(1, len(TRICKY) + 2):
        # All sizes with one limit and skipped lines, a few of all others.
        few = shard_bytes % 17 == 1
        for form in ("text", "gzip") if few else ("text",) * (longest == 40):
            for skip in (True, False) if few else (True,):
                case = Case(form, SCHEMAS[0], skip, block_bytes, shard_bytes, longest, 30, TRICKY)
                ingest.check_text(case, tmp_path)


@pytest.mark.parametrize("block_bytes", [1 << 16, MEBIBYTE + 1])
@pytest.mark.parametrize("beginning", [b"", BOM], ids=["plain", "BOM"])
def test_lines_about_as_long_as_allowed_over_ends_of_shards(
    tmp_path, digits_without_limit, beginning, block_bytes
):
    lines = [b"0" * (size - 1) + b"7" for size in (MEBIBYTE, 1, 3 * MEBIBYTE, MEBIBYTE + 1, 2)]
    text = beginning + b"\n".join(lines)
    for shard_bytes in (MEBIBYTE // 2, MEBIBYTE + 4):
        case = Case("text", SCHEMAS[1], True, block_bytes, shard_bytes, MEBIBYTE, 0, text)
        ingest.check_text(case, tmp_path)


def test_bytes_of_parquet_may_be_wrong(tmp_path):
    length = len(ingest.parquet_bytes())
    for place in range(0, length, 5):
        edit = place.to_bytes(2, "big") + bytes([(place * 37 + 255) % 256])
        case = Case("parquet", TABLE, False, 64, 1 << 20, MEBIBYTE, 4 * place, edit)
        ingest.check_parquet(case, tmp_path)
