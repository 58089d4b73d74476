"""CSV and Parquet logs: columns by name, ids by value or by hash, faults by line."""

import gzip
import hashlib
import json
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import data_tools
from data_tools.schema import Schema

SCHEMA = Schema("click", ("age", "price", "rank"), ("user", "item", "site", "city", "day"))
SMALL = Schema("y", ("a",), ("p",))


def text_id(text):
    """Id of a text, as the documentation gives it."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def read_all(folder):
    """All rows as one batch."""
    dataset = data_tools.Dataset(folder)
    (batch,) = dataset.split("all").batches(max(1, dataset.num_rows))
    return batch


def ingest_csv(folder, text, schema=SMALL, name="log.csv", **options):
    """Ingest CSV text, gzipped where the name says so."""
    source = folder / name
    data = text if isinstance(text, bytes) else text.encode()
    source.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return data_tools.ingest(source, folder / "out", schema=schema, **options)


def ingest_parquet(folder, columns, schema=SMALL, **options):
    """Ingest a Parquet file of the columns."""
    source = folder / "log.parquet"
    pq.write_table(pa.table(columns), source, row_group_size=50_000)
    return data_tools.ingest(source, folder / "out", schema=schema, **options)


CSV = """day,unused,click,user,item,site,city,age,price,rank
mon,?,1,7,-1,a b,"x, y",30,2.5,-4
tue,?,0,18446744073709551615,007,a b,Zürich,,1e3,0
mon,?,1,,18446744073709551616,,-0,0,,12345678901
"""


@pytest.mark.parametrize("name", ["log.csv", "log.csv.gz"])
def test_csv_values(tmp_path, name):
    manifest = ingest_csv(tmp_path, CSV, SCHEMA, name, dense_transform="none")
    assert (manifest.rows, manifest.positives, manifest.index_dtype) == (3, 2, "uint64")
    batch = read_all(tmp_path / "out")
    np.testing.assert_array_equal(batch.labels, [1, 0, 1])
    expected = np.array([[30, 2.5, -4], [0, 1e3, 0], [0, 0, 12345678901]], np.float32)
    np.testing.assert_array_equal(batch.dense, expected)
    ids = [
        # An integer is its value, another text its hash, and so is what no 64 bits hold.
        [7, 2**64 - 1, text_id("a b"), text_id("x, y"), text_id("mon")],
        [2**64 - 1, text_id("007"), text_id("a b"), text_id("Zürich"), text_id("tue")],
        [0, text_id(str(2**64)), 0, text_id("-0"), text_id("mon")],
    ]
    np.testing.assert_array_equal(batch.indices, np.array(ids, np.uint64))


def test_parquet_values_of_every_type(tmp_path):
    columns = {
        "day": pa.array(["mon", "tue", None, ""]).dictionary_encode(),
        "click": pa.array([True, False, True, False]),
        "user": pa.array([-1, 2**63 - 1, None, -(2**63)], pa.int64()),
        "item": pa.array([2**64 - 1, 0, None, 5], pa.uint64()),
        "site": pa.array(["a", "1", None, "Zürich"], pa.large_string()),
        "city": pa.array([b"a", b"\xff", None, b""], pa.binary()),
        "age": pa.array([1, -5, None, 100], pa.int8()),
        "price": pa.array([0.5, float("nan"), None, 3.0], pa.float32()),
        "rank": pa.array([2**53 + 1, None, 0, 9], pa.uint64()),
    }
    manifest = ingest_parquet(tmp_path, columns, SCHEMA)
    assert [shard.rows for shard in manifest.shards] == [4]
    batch = read_all(tmp_path / "out")
    np.testing.assert_array_equal(batch.labels, [1, 0, 1, 0])
    dense = np.log(np.array([[1, 0.5, 2**53], [0, 0, 0], [0, 0, 0], [100, 3, 9]]) + 1)
    np.testing.assert_allclose(batch.dense, dense, rtol=1e-6)
    high = int.from_bytes(hashlib.blake2b(b"\xff", digest_size=8).digest(), "little")
    ids = [
        [2**64 - 1, 2**64 - 1, text_id("a"), text_id("a"), text_id("mon")],
        [2**63 - 1, 0, 1, high, text_id("tue")],
        [0, 0, 0, 0, 0],
        [2**63, 5, text_id("Zürich"), 0, 0],
    ]
    np.testing.assert_array_equal(batch.indices, np.array(ids, np.uint64))


def test_text_and_tables_agree_on_dense_values(tmp_path):
    values = [0, 1, 5, 4095, 4096, 123456789, 2**62 + 1, -7]
    columns = {"y": [0] * len(values), "a": values, "p": values}
    ingest_parquet(tmp_path, columns)
    from_table = read_all(tmp_path / "out").dense
    text = tmp_path / "log.tsv"
    text.write_text("".join(f"0\t{value}\t\n" for value in values))
    data_tools.ingest(text, tmp_path / "out", schema=SMALL, overwrite=True)
    np.testing.assert_array_equal(read_all(tmp_path / "out").dense, from_table)


def test_unlabelled_tables(tmp_path):
    manifest = ingest_csv(tmp_path, "p,a\n1,2\n")
    assert (manifest.labelled, manifest.positives, manifest.rows) == (False, None, 1)
    assert read_all(tmp_path / "out").labels is None
    manifest = ingest_parquet(tmp_path, {"p": [1, 2], "a": [3, 4]}, overwrite=True)
    assert (manifest.labelled, manifest.rows) == (False, 2)


def test_a_table_without_rows_is_a_dataset_without_rows(tmp_path):
    manifest = ingest_csv(tmp_path, "y,a,p\n")
    assert (manifest.labelled, manifest.rows, manifest.shards) == (True, 0, ())
    columns = {"y": pa.array([], pa.int8()), "a": pa.array([], pa.int8()), "p": pa.array([], "str")}
    manifest = ingest_parquet(tmp_path, columns, overwrite=True)
    assert (manifest.labelled, manifest.rows, manifest.shards) == (True, 0, ())
    with pytest.raises(data_tools.ParseError, match=r"log.csv:1: .*[Ee]mpty"):
        ingest_csv(tmp_path, "", overwrite=True)


# Lines 3, 5, 6, 8, 9, 10, 12 and 13 are bad.
FAULTS = b"""y,a,p
1,1,1
2,1,1
0,2,2
0,x,2
1,1
0,3,3
1,1,\xff\xfe
,1,1

1,4,4
0,inf,1
1,1,1,1
"""
REASONS = {
    3: "column y is '2', but the label must be 0 or 1",
    5: "column a is 'x', but a dense field must be empty or a finite number",
    6: "expected 3 fields, found 2",
    8: "not UTF-8: byte 0xff at byte 5 of the line",
    9: "column y is None, but the label must be 0 or 1",
    10: "every field is empty",
    12: "column a is 'inf', but a dense field must be empty or a finite number",
    13: "expected 3 fields, found 4",
}


def test_csv_faults_are_found_by_line(tmp_path):
    manifest = ingest_csv(tmp_path, FAULTS, on_error="skip", dense_transform="none")
    assert (manifest.rows, manifest.rejected) == (4, 8)
    lines = (tmp_path / "out" / "shards-0" / "rejects.jsonl").read_text().splitlines()
    assert {r["line"]: r["reason"] for r in map(json.loads, lines)} == REASONS
    batch = read_all(tmp_path / "out")
    np.testing.assert_array_equal(batch.dense[:, 0], [1, 2, 3, 4])
    np.testing.assert_array_equal(batch.indices[:, 0], [1, 2, 3, 4])


@pytest.mark.parametrize("line", REASONS)
def test_a_csv_fault_stops(tmp_path, line):
    lines = FAULTS.splitlines(keepends=True)
    text = b"".join([lines[0], *[lines[1]] * 20, lines[line - 1], *[lines[1]] * 20])
    with pytest.raises(data_tools.ParseError) as caught:
        ingest_csv(tmp_path, text)
    assert (caught.value.line, caught.value.reason) == (22, REASONS[line])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("sizes", [{}, {"block_bytes": 64}, {"block_bytes": 9, "shard_bytes": 100}])
def test_csv_lines_are_counted_over_many_blocks(tmp_path, sizes):
    good = [f"1,{row},{row}" for row in range(300)]
    bad = {7: "x", 8: "1,1", 50: "5,1,1", 51: "1,1,1,1", 52: "", 200: "1,z,1", 299: "1"}
    lines = ["y,a,p", *(bad.get(row, line) for row, line in enumerate(good))]
    manifest = ingest_csv(
        tmp_path, "\n".join(lines), on_error="skip", dense_transform="none", **sizes
    )
    assert (manifest.rows, manifest.rejected) == (300 - len(bad), len(bad))
    kept = (tmp_path / "out" / "shards-0" / "rejects.jsonl").read_text().splitlines()
    assert [json.loads(line)["line"] for line in kept] == [row + 2 for row in bad]
    expected = [row for row in range(300) if row not in bad]
    np.testing.assert_array_equal(read_all(tmp_path / "out").indices[:, 0], expected)


def test_csv_and_parquet_give_a_text_the_same_id(tmp_path):
    texts = ["7", "-1", "0", "7.0", "007", "+7", "-0", "1e3", "", "a", "Zürich", " 7"]
    texts += [str(2**64 - 1), str(2**64), str(-(2**63)), str(-(2**63) - 1), "9" * 30]
    ingest_csv(tmp_path, "y,a,p\n" + "".join(f"1,1,{text}\n" for text in texts))
    ids = read_all(tmp_path / "out").indices
    columns = {"y": [1] * len(texts), "a": [1] * len(texts)}
    plain = pa.array(texts)
    for column in (plain, plain.cast(pa.large_binary()), plain.dictionary_encode()):
        ingest_parquet(tmp_path, columns | {"p": column}, overwrite=True)
        np.testing.assert_array_equal(read_all(tmp_path / "out").indices, ids)
    assert ids[:4, 0].tolist() == [7, 2**64 - 1, 0, 7]
    assert ids[4:8, 0].tolist() == [text_id(text) for text in texts[4:8]]


def test_many_bad_fields_are_left_out_in_one_pass(tmp_path):
    count = 100_000
    options = {"on_error": "skip", "dense_transform": "none", "overwrite": True}
    ingest_csv(tmp_path, "y,a,p\n1,1,1\n1,x,1\n", **options)  # compiles and loads
    seconds = []
    for bad in ("0", "x"):
        rows = "".join(f"1,{bad if row % 3 else row},{row}\n" for row in range(count))
        began = time.process_time()
        manifest = ingest_csv(tmp_path, "y,a,p\n" + rows, **options)
        seconds.append(time.process_time() - began)
    assert (manifest.rows, manifest.rejected) == (count // 3 + 1, count - count // 3 - 1)
    np.testing.assert_array_equal(read_all(tmp_path / "out").dense[:, 0], np.arange(0, count, 3))
    assert len((tmp_path / "out" / "shards-0" / "rejects.jsonl").read_text().splitlines()) == 100
    # About 3 times; with an exception for each bad field it is 40 times.
    assert seconds[1] < 15 * seconds[0]


NUMBERS = ["1", "+1", "-1.5", ".5", "5.", "1e3", "1E-3", "nan", "NaN", "-nan"]
NO_NUMBERS = [" 1", "1 ", "1_0", "0x1", "--1", "1e", ".", "1,5", "a", "\u0661", "\xff"]


def test_what_a_number_is_does_not_depend_on_its_neighbours(tmp_path):
    good = "y,a,p\n" + "".join(f'1,"{text}",1\n' for text in NUMBERS)
    options = {"on_error": "skip", "dense_transform": "none", "overwrite": True}
    assert ingest_csv(tmp_path, good, **options).rejected == 0
    alone = read_all(tmp_path / "out").dense
    np.testing.assert_array_equal(
        alone[:, 0], np.array([1, 1, -1.5, 0.5, 5, 1e3, 1e-3, 0, 0, 0], np.float32)
    )
    bad = "".join(f'1,"{text}",1\n' for text in NO_NUMBERS).encode().replace(b"\xc3\xbf", b"\xff")
    assert ingest_csv(tmp_path, good.encode() + bad, **options).rejected == len(NO_NUMBERS)
    np.testing.assert_array_equal(read_all(tmp_path / "out").dense, alone)


def test_parquet_faults_are_found_by_row(tmp_path):
    columns = {
        "y": [0, 1, 2, None, 1, 1],
        "a": [1.0, float("inf"), 1.0, 1.0, 1e300, 2.0],
        "p": [1, 2, 3, 4, 5, 6],
    }
    with pytest.raises(data_tools.ParseError, match=r"log.parquet:2: column a is inf, but"):
        ingest_parquet(tmp_path, columns, dense_transform="none")
    options = {"on_error": "skip", "dense_transform": "none"}
    manifest = ingest_parquet(tmp_path, columns, **options)
    assert (manifest.rows, manifest.rejected) == (2, 4)
    np.testing.assert_array_equal(read_all(tmp_path / "out").indices[:, 0], [1, 6])


@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_damaged_tables_stop(tmp_path, on_error):
    rows = "".join(f"1,{row},{row * 977}\n" for row in range(5000))
    cut = gzip.compress(b"y,a,p\n" + rows.encode())[:-2000]
    (tmp_path / "cut.csv.gz").write_bytes(cut)
    (tmp_path / "text.parquet").write_text("y,a,p\n")
    pq.write_table(
        pa.table({"y": [1] * 999, "a": [1] * 999, "p": range(999)}), tmp_path / "x.parquet"
    )
    damaged = bytearray((tmp_path / "x.parquet").read_bytes())
    damaged[4:200] = bytes(196)
    (tmp_path / "x.parquet").write_bytes(damaged)
    for name in ("cut.csv.gz", "text.parquet", "x.parquet"):
        with pytest.raises(data_tools.ParseError, match="is not readable here") as caught:
            data_tools.ingest(tmp_path / name, tmp_path / "out", schema=SMALL, on_error=on_error)
        # What was inflated in the MiB before the damage may be lost.
        assert caught.value.line >= 1
        assert caught.value.line <= 5000
        assert not (tmp_path / "out").exists()


def test_many_rows_of_a_table_fill_several_shards(tmp_path):
    count = 150_000  # more than two batches of the reader
    labels = np.arange(count) % 2
    columns = {"y": labels, "a": np.arange(count), "p": np.arange(count)}
    calls = []
    manifest = ingest_parquet(
        tmp_path,
        columns,
        shard_bytes=100_000,  # less than one row group has
        dense_transform="none",
        progress=lambda *call: calls.append(call),
    )
    assert [shard.rows for shard in manifest.shards] == [50_000] * 3
    batch = read_all(tmp_path / "out")
    np.testing.assert_array_equal(batch.labels, labels)
    np.testing.assert_array_equal(batch.dense[:, 0], np.arange(count, dtype=np.float32))
    np.testing.assert_array_equal(batch.indices[:, 0], np.arange(count))
    assert calls == sorted(calls)
    assert calls[-1][0] == calls[-1][1]
