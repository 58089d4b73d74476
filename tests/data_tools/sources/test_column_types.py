"""Values of every type, as CSV and as Parquet: one id, one dense value, one label each."""

import datetime
import hashlib
import uuid
from decimal import Decimal
from itertools import product

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import data_tools
from data_tools.schema import Schema
from tests.data_tools.ingestion.test_ingest_tables import (
    SMALL,
    ingest_csv,
    ingest_parquet,
    read_all,
    text_id,
)

LOOSE = {"dense_transform": "none", "overwrite": True}


def csv_ids(folder, texts, **options):
    """Ids of texts, from a CSV with nothing else of interest."""
    lines = "".join(f'1,1,"{text}"\n' for text in texts)
    ingest_csv(folder, "y,a,p\n" + lines, **LOOSE, **options)
    return read_all(folder / "out").indices[:, 0].tolist()


def parquet_ids(folder, column, **options):
    """Ids of a Parquet column."""
    ones = [1] * len(column)
    ingest_parquet(folder, {"y": ones, "a": ones, "p": column}, **LOOSE, **options)
    return read_all(folder / "out").indices[:, 0].tolist()


WHOLE = {
    "12": 12, "12.0": 12, "12.000": 12, "-3.0": 2**64 - 3, "0.0": 0, "-0.0": 0, "1.5e+1": 15,
    "1.2345678E7": 12345678, "1E+2": 100, "9007199254740991.0": 2**53 - 1,
    # A double, as R writes it among integers.
    "1.4202400320782e+19": 14202400320782000128,
    "18446744073709551615": 2**64 - 1, "": 0, "NULL": 0, "\\N": 0, "NaN": 0, "nan": 0,
}  # fmt: skip


def test_a_whole_float_has_the_id_of_the_integer(tmp_path):
    for others in ([], ["a text"]):  # in a column of numbers, and in one of texts
        ids = csv_ids(tmp_path, [*WHOLE, *others])
        assert ids[: len(WHOLE)] == list(WHOLE.values())
        assert parquet_ids(tmp_path, pa.array([*WHOLE, *others])) == ids
    floats = [12.0, -3.0, -0.0, 2.0**53 - 1, None, float("nan")]
    expected = [12, 2**64 - 3, 0, 2**53 - 1, 0, 0]
    assert parquet_ids(tmp_path, pa.array(floats)) == expected
    assert parquet_ids(tmp_path, pa.array(floats[:3], pa.float16())) == expected[:3]
    assert parquet_ids(tmp_path, pa.array([2.0**24 - 1], pa.float32())) == [2**24 - 1]


TEXTS = ["1e3", "12e5", "007.0", "+7.0", "7.", ".5", "1,0", "2.5", "3.1.4", "1.10", "inf", "NA",
         "1e+30", "-1e+19", "1e+9999", "NULL ", "Nan", "9" * 30 + ".0"]  # fmt: skip


def test_other_texts_keep_their_hash(tmp_path):
    expected = [text_id(text) for text in TEXTS]
    assert csv_ids(tmp_path, TEXTS) == expected
    assert parquet_ids(tmp_path, pa.array(TEXTS)) == expected
    # Versions are texts to Parquet, whatever they look like.
    assert parquet_ids(tmp_path, pa.array(["2.5", "1.10"])) == [text_id("2.5"), text_id("1.10")]


@pytest.mark.parametrize("texts", [[*WHOLE], TEXTS, [*WHOLE, *TEXTS, "Zürich", "a b", "7", "-1"]])
def test_text_ids_are_those_of_a_csv(tmp_path, texts):
    ids = data_tools.text_ids(texts)
    assert ids.dtype == np.int64
    assert ids.view(np.uint64).tolist() == csv_ids(tmp_path, texts)


def test_text_ids_have_the_shape_and_bits_of_the_documentation():
    ids = data_tools.text_ids([["news", "phone", None], [7, -1, float("nan")]])
    expected = [[text_id("news"), text_id("phone"), 0], [7, 2**64 - 1, 0]]
    np.testing.assert_array_equal(ids.view(np.uint64), np.array(expected, np.uint64))
    assert data_tools.text_ids(np.array([["a"], ["b"]])).shape == (2, 1)
    assert data_tools.text_ids([]).shape == (0,)
    for other in (2.5, True, b"news", ["news"]):
        with pytest.raises(TypeError, match="neither a text nor an integer nor None"):
            data_tools.text_ids(["news", other])


ROUNDED = ("9007199254740992.0", "1.0710025208886284e+19")


@pytest.mark.parametrize("bad", ["12.5", "-0.5", "1e-05", "inf", *ROUNDED])
@pytest.mark.parametrize("place", [1, 30_000])  # within the first lines, and far behind
def test_a_csv_column_of_numbers_has_no_fractions(tmp_path, bad, place):
    # Where floats alone are written, the column was one of floats, and ids in it were rounded.
    numbers = ["12.0" if bad in ROUNDED else "12", "12.0", ""] * 12_000
    numbers.insert(place, bad)
    for sizes in ({}, {"block_bytes": 1 << 15, "shard_bytes": 1 << 16}):
        with pytest.raises(data_tools.ParseError) as caught:
            csv_ids(tmp_path, numbers, **sizes)
        assert caught.value.line == place + 2
        reason = f"column p is '{bad}', but a column of numbers must hold whole ids"
        assert caught.value.reason.startswith(reason)
        assert "in Parquet, or name the column as dense" in caught.value.reason
    ids = csv_ids(tmp_path, numbers, on_error="skip")
    assert ids == [12, 12, 0] * 12_000


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (12.5, pa.float64()),
        (float("inf"), pa.float64()),
        (-(2.0**53), pa.float64()),
        (1e300, pa.float64()),
        (2.0**24, pa.float32()),
        (2.0**11, pa.float16()),
        (Decimal("1.50"), pa.decimal128(20, 2)),
        (Decimal("1.50"), pa.decimal32(5, 2)),
    ],
)
def test_a_parquet_column_of_numbers_has_no_fractions(tmp_path, value, kind):
    column = pa.array([1, value, None, 2], kind)
    with pytest.raises(
        data_tools.ParseError, match=r"parquet:2: column p is .*must hold whole ids"
    ):
        parquet_ids(tmp_path, column)
    assert parquet_ids(tmp_path, column, on_error="skip") == [1, 0, 2]
    with pytest.raises(data_tools.DatasetError, match="must hold whole ids"):
        list(data_tools.ParquetDataset(tmp_path / "log.parquet", SMALL).split("all").batches(9))


UUID = uuid.UUID("0f8fad5b-d9cb-469f-a165-70867728950e")
DAY = datetime.date(2024, 1, 31)
TIME = datetime.datetime(2024, 1, 31, 12, 34, 56)
MIDNIGHT = datetime.datetime(2024, 1, 31)
TENTH = TIME.replace(microsecond=100_000)
# Each column, and the texts that a CSV has for its values.
TYPES = {
    "string_view": (pa.array(["a", "12", "12.0"], pa.string_view()), ["a", "12", "12"]),
    "binary_view": (pa.array([b"a", b"12"], pa.binary_view()), ["a", "12"]),
    "fixed_size_binary": (pa.array([b"abcd", b"1234"], pa.binary(4)), ["abcd", "1234"]),
    "bool": (pa.array([True, False]), ["True", "False"]),
    "decimal": (pa.array([Decimal("12.00"), Decimal("-7.00")], pa.decimal128(9, 2)), ["12", "-7"]),
    "decimal32": (pa.array([Decimal("12.00")], pa.decimal32(5, 2)), ["12"]),
    "decimal256": (pa.array([Decimal(10**30)], pa.decimal256(40, 0)), ["1" + "0" * 30]),
    "date32": (pa.array([DAY]), ["2024-01-31"]),
    "date64": (pa.array([DAY], pa.date64()), ["2024-01-31"]),
    "timestamp[s]": (pa.array([TIME, MIDNIGHT], pa.timestamp("s")), [str(TIME), "2024-01-31"]),
    "timestamp[ms]": (pa.array([TIME, TENTH], pa.timestamp("ms")), [str(TIME), str(TENTH)]),
    "timestamp[us]": (pa.array([TENTH, MIDNIGHT]), [str(TENTH), "2024-01-31"]),
    "timestamp[ns]": (pa.array([10**9 + 1, 10**9], pa.timestamp("ns")),
                      ["1970-01-01 00:00:01.000000001", "1970-01-01 00:00:01"]),
    "with a zone": (pa.array([TIME, MIDNIGHT], pa.timestamp("us", "UTC")),
                    [f"{TIME}+00:00", "2024-01-31 00:00:00+00:00"]),
    "of another zone": (pa.array([TIME], pa.timestamp("us", "Asia/Tokyo")), [f"{TIME}+00:00"]),
    "time": (pa.array([datetime.time(0, 0), datetime.time(1, 2, 3)]), ["00:00:00", "01:02:03"]),
    "uuid": (pa.ExtensionArray.from_storage(pa.uuid(), pa.array([UUID.bytes], pa.binary(16))),
             [str(UUID)]),
    "json": (pa.ExtensionArray.from_storage(pa.json_(), pa.array(["{}"])), ["{}"]),
    "dictionary": (pa.array([3, 4]).dictionary_encode(), ["3", "4"]),
    "null": (pa.nulls(1), [""]),
}  # fmt: skip


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("stored", [True, False])  # whether the file tells Arrow's own types
def test_an_id_is_that_of_the_text_in_a_csv(tmp_path, kind, stored):
    column, texts = TYPES[kind]
    column = pa.concat_arrays([column, pa.nulls(1, column.type), column])
    table = pa.table({"a": [1] * len(column), "p": column})
    pq.write_table(table, tmp_path / "log.parquet", store_schema=stored)
    data_tools.ingest(tmp_path / "log.parquet", tmp_path / "out", schema=SMALL)
    ids = read_all(tmp_path / "out").indices[:, 0].tolist()
    assert ids == csv_ids(tmp_path, [*texts, "", *texts, "no number"])[:-1]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([[[1]]]),
        pa.array([{"x": 1}]),
        pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int8())),
        pa.array([1], pa.duration("s")),
    ],
)
def test_types_that_hold_no_ids_are_named(tmp_path, column):
    pq.write_table(pa.table({"a": [1], "p": column}), tmp_path / "log.parquet")
    with pytest.raises(data_tools.ParseError) as caught:
        data_tools.ingest(tmp_path / "log.parquet", tmp_path / "out", schema=SMALL)
    kind = str(column.type).partition("<")[0]
    assert f"column p is of type {kind}" in caught.value.reason
    assert "make a column of each of its parts" in caught.value.reason
    pq.write_table(pa.table({"a": column, "p": [1]}), tmp_path / "log.parquet")
    with pytest.raises(data_tools.ParseError, match=r"column a is of type .* must hold numbers"):
        data_tools.ingest(tmp_path / "log.parquet", tmp_path / "out", schema=SMALL)


NUMBERS = {
    "text": (["1", "0.0", "1.0"], [1, 0, 1]),
    "pandas": (["True", "False"], [1, 0]),
    "spark": (["true", "false"], [1, 0]),
    "sql": (["TRUE", "FALSE", "1"], [1, 0, 1]),
}
TEXT_TYPES = (pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.binary_view())


@pytest.mark.parametrize("name", NUMBERS)
def test_labels_and_dense_values_may_be_texts(tmp_path, name):
    texts, values = NUMBERS[name]
    found = []
    ingest_csv(tmp_path, "y,a,p\n" + "".join(f"{t},{t},1\n" for t in texts), **LOOSE)
    found.append(read_all(tmp_path / "out"))
    for kind in TEXT_TYPES:
        column = pa.array(texts).cast(kind)
        ingest_parquet(tmp_path, {"y": column, "a": column, "p": [1] * len(texts)}, **LOOSE)
        found.append(read_all(tmp_path / "out"))
    column = pa.array(texts).dictionary_encode()
    ingest_parquet(tmp_path, {"y": column, "a": column, "p": [1] * len(texts)}, **LOOSE)
    for batch in [*found, read_all(tmp_path / "out")]:
        assert batch.labels.tolist() == values
        assert batch.dense[:, 0].tolist() == values


def test_missing_dense_values(tmp_path):
    texts = ["317.0", "NULL", "\\N", "", "NaN", "nan", "-2"]
    expected = [317, 0, 0, 0, 0, 0, -2]
    ingest_csv(tmp_path, "y,a,p\n" + "".join(f"1,{t},{t}x\n" for t in texts), **LOOSE)
    assert read_all(tmp_path / "out").dense[:, 0].tolist() == expected
    for kind in TEXT_TYPES:
        columns = {"y": [1] * 7, "a": pa.array(texts).cast(kind), "p": range(7)}
        ingest_parquet(tmp_path, {**columns, "p": list(range(7))}, **LOOSE)
        assert read_all(tmp_path / "out").dense[:, 0].tolist() == expected
    text = tmp_path / "log.txt"
    text.write_text("".join(f"1.0\t{t}\t\\N\n0\t{t}\tNULL\n" for t in texts))
    data_tools.ingest(text, tmp_path / "out", schema=SMALL, **LOOSE)
    batch = read_all(tmp_path / "out")
    assert batch.dense[::2, 0].tolist() == expected
    assert batch.labels.tolist() == [1, 0] * 7
    assert not batch.indices.any()


def test_texts_that_are_no_numbers_are_found_by_row(tmp_path):
    columns = {
        "y": ["1", "yes", "0", None],
        "a": pa.array([b"1", b"2", b"\xff", b"3"]),
        "p": [1] * 4,
    }
    with pytest.raises(data_tools.ParseError, match=r"log.parquet:2: column y is 'yes', but"):
        ingest_parquet(tmp_path, columns)
    manifest = ingest_parquet(tmp_path, columns, on_error="skip")
    assert (manifest.rows, manifest.rejected) == (1, 3)


def written_by_pandas(values):
    """Fields of a column as pandas writes them: integers beside missing ones are floats."""
    missing = any(value is None for value in values)
    return [
        "" if value is None
        else repr(float(value)) if missing and type(value) is int
        else str(value)
        for value in values
    ]  # fmt: skip


words = st.one_of(
    st.text("abz019.eE+-_ ", max_size=6), st.sampled_from(["NULL", "\\N", "12.0", "007", "x y"])
)


def columns_of(length):
    """Labels, dense values, integer ids, texts and days, of which some are missing."""
    exact = 2**53 - 1

    def lists(values):
        return st.lists(values, min_size=length, max_size=length)

    return st.tuples(
        st.one_of(lists(st.booleans()), lists(st.integers(0, 1))),
        lists(st.none() | st.floats(-1e30, 1e30)),
        lists(st.none() | st.integers(-exact, exact)),
        lists(st.none() | words),
        lists(st.none() | st.dates()),
    )


@settings(max_examples=50)
@given(columns=st.integers(1, 12).flatmap(columns_of))
@example(columns=([True], [None], [None], [None], [None]))
def test_a_table_gives_the_same_rows_as_csv_and_as_parquet(tmp_path_factory, columns):
    folder = tmp_path_factory.mktemp("table")
    names = ("y", "a", "number", "text", "day")
    schema = Schema("y", ("a",), names[2:])
    # A row of which nothing is there is an empty line to CSV, so there is always a label; and a
    # column of a few texts may look like numbers.
    lasts = (1, 1.0, 1, "text", None)
    columns = [[*column, last] for column, last in zip(columns, lasts, strict=True)]
    columns[0] = [type(columns[0][0])(value) for value in columns[0]]
    rows = zip(*map(written_by_pandas, columns), strict=True)
    lines = [",".join(f'"{field}"' for field in row) for row in rows]
    text = "\n".join([",".join(names), *lines])
    table = pa.table(
        {
            "y": pa.array(columns[0]),
            "a": pa.array(columns[1], pa.float64()),
            "number": pa.array(columns[2], pa.float64()),
            "text": pa.array(columns[3], pa.string()),
            "day": pa.array(columns[4], pa.date32()),
        }
    )
    ingest_csv(folder, text, schema, **LOOSE)
    expected = read_all(folder / "out")
    times = table["day"].cast(pa.timestamp("us"))
    for number, day in product((pa.float64(), pa.int64()), (table["day"], times)):
        changed = {"number": table["number"].cast(number), "day": day}
        ingest_parquet(folder, {**dict(zip(names, table.columns, strict=True)), **changed}, schema,
                       **LOOSE)  # fmt: skip
        for mine, theirs in zip(read_all(folder / "out"), expected, strict=True):
            np.testing.assert_array_equal(mine, theirs)
    value = columns[2][0]
    assert expected.indices[0, 0] == (0 if value is None else value % 2**64)
    day = columns[4][0]
    hashed = hashlib.blake2b(str(day).encode(), digest_size=8).digest()
    assert expected.indices[0, 2] == (0 if day is None else int.from_bytes(hashed, "little"))
