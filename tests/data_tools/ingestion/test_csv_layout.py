"""How a CSV is read: its header, separator and quotes, and which lines are rows."""

import json

import numpy as np
import pytest

import data_tools
from data_tools.schema import Schema
from tests.data_tools.ingestion.test_ingest_tables import (
    CSV,
    SCHEMA,
    ingest_csv,
    ingest_parquet,
    read_all,
    text_id,
)


def test_wrong_columns(tmp_path):
    with pytest.raises(
        data_tools.ParseError, match=r"no column named p; the file has y, a, q; .*Schema"
    ):
        ingest_csv(tmp_path, "y,a,q\n1,1,1\n")
    with pytest.raises(data_tools.ParseError, match=r"more than one column named a;"):
        ingest_csv(tmp_path, "y,a,a,p\n1,1,1,1\n")
    with pytest.raises(data_tools.ParseError, match=r"log.csv:1: .*not readable"):
        ingest_csv(tmp_path, b"y,a,\xff,p\n1,1,1,1\n")


# What follows a quote that nothing closes is still one row per line.
QUOTES = """y,a,p
1,1,"one"
1,2,"open
1,3,three
0,4,"a "" b
0,5,"five"
1,6,"x\ry"
1,7,seven\r8
1,8,"a ""quoted"", text"
1,9,5" disc
1,10,x"y,"z
1,11,"last
"""


@pytest.mark.parametrize("block_bytes", [8, 30, 4 << 20])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_no_line_is_swallowed_by_a_quote(tmp_path, block_bytes, ending):
    options = {"on_error": "skip", "dense_transform": "none", "block_bytes": block_bytes}
    manifest = ingest_csv(tmp_path, QUOTES.replace("\n", ending), **options)
    kept = (tmp_path / "out" / "shards-0" / "rejects.jsonl").read_text().splitlines()
    reasons = {reject["line"]: reject["reason"] for reject in map(json.loads, kept)}
    assert list(reasons) == [3, 5, 7, 8, 11, 12]
    assert all("quote is not closed" in reasons[line] for line in (3, 5, 11, 12))
    assert all("carriage return" in reasons[line] for line in (7, 8))
    assert manifest.rejected == 6
    batch = read_all(tmp_path / "out")
    np.testing.assert_array_equal(batch.dense[:, 0], [1, 3, 5, 8, 9])
    texts = ["one", "three", "five", 'a "quoted", text', '5" disc']
    assert batch.indices[:, 0].tolist() == [text_id(text) for text in texts]


def test_a_column_that_is_not_read_may_not_swallow_lines_either(tmp_path):
    text = 'y,a,p,other\n1,1,1,"x\n0,2,2,y"\n1,3,3,z\n'
    with pytest.raises(data_tools.ParseError, match=r"log.csv:2: a quote is not closed"):
        ingest_csv(tmp_path, text)
    manifest = ingest_csv(tmp_path, text, on_error="skip")
    # The second line of the broken row is a row of its own: `y"` is a text.
    assert (manifest.rows, manifest.rejected) == (2, 1)
    with pytest.raises(data_tools.ParseError, match=r"log.csv:1: .*header: a quote is not closed"):
        ingest_csv(tmp_path, 'y,a,"p\n1,1,1\n', overwrite=True)


def test_a_csv_line_that_is_no_text_is_bad_whatever_its_fields(tmp_path):
    lines = [b"y,a,p,q", b"1,1,1,1", b"1,\xff", b"1,2,2,\xff", b"1,3,\0,3", b"1,4,4,4"]
    manifest = ingest_csv(tmp_path, b"\n".join(lines), on_error="skip", dense_transform="none")
    assert (manifest.rows, manifest.rejected) == (2, 3)
    kept = (tmp_path / "out" / "shards-0" / "rejects.jsonl").read_text().splitlines()
    assert [json.loads(line)["line"] for line in kept] == [3, 4, 5]
    np.testing.assert_array_equal(read_all(tmp_path / "out").dense[:, 0], [1, 4])


def test_a_long_csv_line_is_bad(tmp_path):
    text = f"y,a,p\n1,1,{'x' * (1 << 20)}\n1,2,2\n"
    with pytest.raises(data_tools.ParseError, match=r"log.csv:2: the line is longer than"):
        ingest_csv(tmp_path, text, block_bytes=1 << 16)
    assert ingest_csv(tmp_path, text, on_error="skip", block_bytes=1 << 16).rows == 1


def test_a_csv_may_begin_with_a_byte_order_mark(tmp_path):
    assert ingest_csv(tmp_path, b"\xef\xbb\xbfy,a,p\n1,1,1\n").rows == 1


def test_labels_that_are_asked_for(tmp_path):
    rows, schema = "clicked,a,p\n1,1,1\n", Schema("clik", ("a",), ("p",))
    assert not ingest_csv(tmp_path, rows, schema).labelled
    assert ingest_csv(tmp_path, rows, schema, overwrite=True, labelled=False).rows == 1
    with pytest.raises(data_tools.ParseError, match=r"no column named clik; the file has clicked,"):
        ingest_csv(tmp_path, rows, schema, overwrite=True, labelled=True)
    with pytest.raises(data_tools.ParseError, match=r"log.csv:1: this file has labels"):
        ingest_csv(tmp_path, "y,a,p\n1,1,1\n", overwrite=True, labelled=False)
    assert ingest_csv(tmp_path, "y,a,p\n1,1,1\n", overwrite=True, labelled=True).labelled


@pytest.mark.parametrize(
    ("asked", "there"),
    [
        ("y", "Y"), ("y", " y "), ("a", "A"), ("p", "p "),
        ("y", "#y"), ("y", "'y'"), ("y", "\ufeffy"), ("y", "\u200by"), ("a", "(a)"),
    ],
)  # fmt: skip
def test_names_that_differ_in_case_or_what_is_around_them_alone_are_an_error(
    tmp_path, asked, there
):
    names = [there if name == asked else name for name in ("y", "a", "p")]
    for labelled in (None, True):
        with pytest.raises(data_tools.ParseError) as caught:
            # A first byte order mark is none of the name.
            ingest_csv(tmp_path, "\ufeff" + ",".join(names) + "\n1,1,1\n", labelled=labelled)
        assert f"no column is named {asked!r}, but one is named {there!r}" in caught.value.reason
        with pytest.raises(data_tools.ParseError, match="case and spaces count"):
            ingest_parquet(tmp_path, {key: [1] for key in names}, labelled=labelled)
    # A column that was asked for by its own name is no other one misspelt.
    schema = Schema("label", ("Label",), ("p",))
    assert not ingest_csv(tmp_path, "Label,p\n1,1\n", schema).labelled


@pytest.mark.parametrize("separator", [",", "\t", ";", "|"])
@pytest.mark.parametrize("name", ["log.csv", "log.csv.gz"])
def test_the_header_tells_the_separator(tmp_path, separator, name):
    text = CSV.replace('"x, y"', "{}").replace(",", separator).replace("{}", f'"x{separator} y"')
    options = {"dense_transform": "none", "block_bytes": 20, "shard_bytes": 70}
    manifest = ingest_csv(tmp_path, text, SCHEMA, name, **options)
    assert manifest.rows == 3
    batch = read_all(tmp_path / "out")
    np.testing.assert_array_equal(batch.dense[0], [30, 2.5, -4])
    site, city = batch.indices[0, 2:4].tolist()
    assert (site, city) == (text_id("a b"), text_id(f"x{separator} y"))
    # What was found is not an option, and manifests of before have none.
    assert "separator" not in (tmp_path / "out" / "manifest.json").read_text()


@pytest.mark.parametrize("separator", [":", " ", "\x01"])
def test_a_header_of_one_name_may_have_another_separator(tmp_path, separator):
    text = "y,a,p\n1,1,1\n".replace(",", separator)
    with pytest.raises(data_tools.ParseError, match=r"no column named .*with --separator"):
        ingest_csv(tmp_path, text)
    assert ingest_csv(tmp_path, text, separator=separator).rows == 1


@pytest.mark.parametrize("text", ["", "\n", "\ufeff", "\ufeff\r\n", "\ny,a,p\n1,1,1\n"])
def test_a_csv_without_a_header_is_an_error_that_says_so(tmp_path, text):
    with pytest.raises(data_tools.ParseError, match=r"log.csv:1: .*the first line is empty"):
        ingest_csv(tmp_path, text, on_error="skip")


def test_a_quoted_separator_leaves_no_doubt(tmp_path):
    assert ingest_csv(tmp_path, 'y;"b|c, d";a;p\n1;x;1;1\n').rows == 1


@pytest.mark.parametrize("separator", ["\t", "\x01", " "])
def test_a_separator_that_is_asked_for(tmp_path, separator):
    text = CSV.replace(",", separator).replace("a b", "a,b")
    options = {"separator": separator, "dense_transform": "none"}
    # Under any name but that of Parquet, such a file is a table.
    manifest = ingest_csv(tmp_path, text, SCHEMA, "log.tsv", **options)
    assert data_tools.Dataset(tmp_path / "out").manifest == manifest
    assert manifest.options.separator == separator
    np.testing.assert_array_equal(read_all(tmp_path / "out").dense[0], [30, 2.5, -4])


def test_a_wrong_separator_and_an_unknown_layout(tmp_path):
    for separator in ("", "ab", '"', "\n", "x", "7", ".", "\0", "é"):
        with pytest.raises(ValueError, match=r"separator is .* one ASCII character"):
            ingest_csv(tmp_path, CSV, SCHEMA, separator=separator)
    with pytest.raises(data_tools.ParseError, match=r"the file has y;a, b;p; .*--separator"):
        ingest_csv(tmp_path, "y;a,b;p\n1;1;1\n", Schema("y", ("a,b",), ("p",)))
    with pytest.raises(data_tools.ParseError, match=r"log.txt:1: .*--format csv, and --separator"):
        ingest_csv(tmp_path, "y;b;q\n1;1;1\n", name="log.txt")
    # As a CSV a log of Criteo's would have other ids, so that must be said.
    names, schema = data_tools.CRITEO.names, data_tools.CRITEO
    text = "\t".join(names) + "\n" + "\t".join("1" * len(names)) + "\n"
    with pytest.raises(data_tools.ParseError, match=r"log.tsv:1: field 1 .*--format csv, or leave"):
        ingest_csv(tmp_path, text, schema, "log.tsv")
    assert ingest_csv(tmp_path, text, schema, "log.tsv", format="csv").rows == 1


@pytest.mark.parametrize("separator", [",", "\t", ";", "|"])
@pytest.mark.parametrize("name", ["log.tsv", "log.txt.gz", "part-00000"])
def test_a_first_line_that_names_all_columns_makes_a_text_a_table(tmp_path, separator, name):
    text = "a,more,p,y\n2,x,7,1\n3,,b,0\n".replace(",", separator)
    assert ingest_csv(tmp_path, text, name=name, dense_transform="none").rows == 2
    batch = read_all(tmp_path / "out")
    assert batch.dense[:, 0].tolist() == [2, 3]
    assert batch.indices[:, 0].tolist() == [7, text_id("b")]
    assert not ingest_csv(tmp_path, text.replace("y", "z"), name=name, overwrite=True).labelled


def test_many_missing_columns_are_not_all_listed(tmp_path):
    with pytest.raises(data_tools.ParseError) as caught:
        ingest_csv(tmp_path, "click,price,user\n1,1,1\n", data_tools.CRITEO)
    assert "no column named I1, I2, I3, I4, I5 and 34 more; " in caught.value.reason
    assert "the file has click, price, user; " in caught.value.reason
    assert "--label, --dense, --categorical" in caught.value.reason
