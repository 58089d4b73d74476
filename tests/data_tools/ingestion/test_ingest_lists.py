"""Logs with lists of ids, from the file to the rows of a dataset."""

import csv
import io
import json
import os
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import data_tools
from data_tools.format.manifest import ListFacts
from data_tools.schema import Schema
from tests.data_tools.ingestion.test_ingest_tables import text_id
from tests.support import bags, slow_csv

FILMS = """userId,movieId,liked,genres,history,rated
1,31,0,Drama,,
1,1029,1,Adventure|Animation|Children,31,2.5
7,31,1,Drama,"1029|1061|1129","3.0|3|2e0"
7,1061,0,(no genres listed),1029|1061,4|1
15,2,1,"Comedy|""Horror"", slow|Drama",NULL,\\N
15,1029,0,Adventure||Children,2|2||7,1|2|3|4
"""
SCHEMA = Schema("liked", (), ("userId", "movieId"), ("genres", "history"), (None, "rated"))
GENRES = [
    ["Drama"], ["Adventure", "Animation", "Children"], ["Drama"], ["(no genres listed)"],
    ["Comedy", '"Horror", slow', "Drama"], ["Adventure", "", "Children"],
]  # fmt: skip
HISTORY = [[], [31], [1029, 1061, 1129], [1029, 1061], [], [2, 2, 0, 7]]
RATED = [[], [2.5], [3.0, 3.0, 2.0], [4.0, 1.0], [], [1.0, 2.0, 3.0, 4.0]]


def genre_ids(genres):
    return [text_id(genre) if genre else 0 for genre in genres]


def read_bags(folder, num_multi_hot=2, **options):
    """For each multi-hot column all its lists, read in batches of three."""
    columns = [[] for _ in range(num_multi_hot)]
    for batch in data_tools.Dataset(folder).split("all").batches(3, **options):
        for column, found in zip(columns, bags.bags_of(batch, num_multi_hot), strict=True):
            column += found
    return columns


def weighed(ids, weights=None):
    """Lists as pairs of id and weight."""
    weights = weights or [[1.0] * len(bag) for bag in ids]
    return [list(zip(*pair, strict=True)) for pair in zip(ids, weights, strict=True)]


@pytest.mark.parametrize("file_format", ["arrow", "parquet"])
@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_films_with_genres_and_histories(tmp_path, file_format, compression):
    (tmp_path / "films.csv").write_text(FILMS)
    manifest = data_tools.ingest(
        tmp_path / "films.csv", tmp_path / "out", schema=SCHEMA, list_separator="|",
        file_format=file_format, compression=compression, shard_bytes=70,
    )  # fmt: skip
    assert len(manifest.shards) > 2
    genres, history = read_bags(tmp_path / "out")
    assert genres == weighed([genre_ids(row) for row in GENRES])
    assert history == weighed(HISTORY, RATED)
    assert manifest.lists == (ListFacts(12, 3, 0), ListFacts(10, 4, 0))
    assert manifest.ids_per_row == (2.0, 10 / 6)
    assert data_tools.Dataset(tmp_path / "out").manifest == manifest
    assert data_tools.verify(tmp_path / "out") == []
    ids = np.concatenate([b.indices for b in data_tools.Dataset(tmp_path / "out").batches(4)])
    assert ids.tolist() == [[1, 31], [1, 1029], [7, 31], [7, 1061], [15, 2], [15, 1029]]


def test_the_last_ids_of_longer_lists_are_kept_and_longer_ones_counted(tmp_path):
    (tmp_path / "films.csv").write_text(FILMS)
    manifest = data_tools.ingest(
        tmp_path / "films.csv", tmp_path / "out", schema=SCHEMA, list_separator="|", max_length=2
    )
    genres, history = read_bags(tmp_path / "out")
    assert genres == weighed([genre_ids(row[-2:]) for row in GENRES])
    assert history == weighed(bags.last(HISTORY, 2), bags.last(RATED, 2))
    assert manifest.lists == (ListFacts(9, 2, 3), ListFacts(7, 2, 2))
    assert manifest.to_json()["options"]["max_length"] == 2


def as_parquet(folder):
    """The films as others store them: lists of several types."""
    rows = list(csv.DictReader(io.StringIO(FILMS)))
    genres = [[genre or None for genre in row] for row in GENRES]
    history = [[value or None for value in row] if row else None for row in HISTORY]
    columns = {
        "liked": [int(row["liked"]) for row in rows],
        "userId": pa.array([int(row["userId"]) for row in rows], pa.int32()),
        "movieId": [row["movieId"] for row in rows],
        "genres": pa.array(genres, pa.large_list(pa.dictionary(pa.int8(), pa.string()))),
        "history": pa.array(history, pa.list_(pa.int64())),
        "rated": pa.array(RATED, pa.list_(pa.float64())),
    }
    pq.write_table(pa.table(columns), folder / "films.parquet", row_group_size=4)
    return folder / "films.parquet"


def test_parquet_has_the_ids_of_the_csv_and_its_lists_are_found(tmp_path):
    source = as_parquet(tmp_path)
    (tmp_path / "films.csv").write_text(FILMS)
    single = Schema("liked", (), ("userId", "genres", "movieId", "history"))
    manifest = data_tools.ingest(source, tmp_path / "out", schema=single)
    assert manifest.schema == Schema("liked", (), SCHEMA.categorical, SCHEMA.multi_hot)
    genres, history = read_bags(tmp_path / "out")
    assert genres == weighed([genre_ids(row) for row in GENRES])
    assert history == weighed(HISTORY)
    # Both kinds of a log, and what the options do to it.
    options = {"schema": SCHEMA, "list_separator": "|", "max_length": 2, "ids": "appearance"}
    sources = [source, tmp_path / "films.csv"]
    manifest = data_tools.ingest(sources, tmp_path / "both", **options)
    genres, history = read_bags(tmp_path / "both")
    expected = bags.prepared(2 * bags.last(HISTORY, 2), by_appearance=True)
    assert history == weighed(expected, 2 * bags.last(RATED, 2))
    expected = bags.prepared([genre_ids(row[-2:]) for row in 2 * GENRES], by_appearance=True)
    assert genres == weighed(expected)
    assert manifest.lists == (ListFacts(18, 2, 6), ListFacts(14, 2, 4))
    # In place.
    dataset = data_tools.ParquetDataset(source, SCHEMA, max_length=2)
    (batch,) = dataset.batches(9)
    assert bags.bags_of(batch, 2)[1] == weighed(bags.last(HISTORY, 2), bags.last(RATED, 2))
    dataset = data_tools.ParquetDataset(source, single)
    assert dataset.schema.multi_hot == ("genres", "history")
    (batch,) = dataset.batches(9)
    assert bags.bags_of(batch, 2) == [weighed([genre_ids(row) for row in GENRES]), weighed(HISTORY)]
    assert dataset.manifest.ids_per_row == (2.0, 2.0)  # two empty lists count as one id


def test_texts_of_parquet_are_split_too(tmp_path):
    columns = {"y": [1, 0, 1], "tags": ["a|b", None, "\\N"], "w": ["1|-2", "", None]}
    pq.write_table(pa.table(columns), tmp_path / "log.parquet")
    schema = Schema("y", (), (), ("tags",), ("w",))
    with pytest.raises(data_tools.ParseError, match=r"name the character .* list_separator"):
        data_tools.ingest(tmp_path / "log.parquet", tmp_path / "out", schema=schema)
    data_tools.ingest(tmp_path / "log.parquet", tmp_path / "out", schema=schema, list_separator="|")
    assert read_bags(tmp_path / "out", 1) == [[[(text_id("a"), 1), (text_id("b"), -2)], [], []]]
    dataset = data_tools.ParquetDataset(tmp_path / "log.parquet", schema, list_separator="|")
    (batch,) = dataset.batches(9)
    assert bags.bags_of(batch, 1) == read_bags(tmp_path / "out", 1)


WORDS = ["7", "-1", "12.0", "0", "18446744073709551616", "", "NULL", "a b", 'q"', "x,y", "ü", "2.5"]
NUMBERS = ["7", "7", "3", "-1", "12.0", "", "2.5", "9007199254740992.0"]
WEIGHTS = ["1", "0.5", "-2e1", "True", "1.5"]
BAD_WEIGHTS = ["x", "", "1e39", "NaN"]


@st.composite
def logs(draw):
    """Rows (label, list of items, list of weights), some of them bad."""
    words = draw(st.sampled_from([WORDS, NUMBERS, [w for w in NUMBERS if w not in ("2.5", "3")]]))
    item = st.sampled_from(words)
    weight = st.sampled_from(WEIGHTS + draw(st.sampled_from([[], BAD_WEIGHTS])))
    rows = []
    for _ in range(draw(st.integers(1, 12))):
        bag = draw(st.lists(item, max_size=5))
        count = len(bag) if draw(st.integers(0, 9)) else draw(st.integers(0, 5))
        rows.append((draw(st.integers(0, 1)), bag, [draw(weight) for _ in range(count)]))
    return rows


def slow_rows(rows, separator):
    """Labels, lists and weights of the good rows, and the lines of the bad ones."""
    fields = [(y, *(separator.join(each).encode() for each in (bag, w))) for y, bag, w in rows]
    between = separator.encode()
    holds = slow_csv.content([i for _, bag, _ in fields for i in slow_csv.items(bag, between)])
    good, bad = [], []
    for line, (label, bag, weights) in enumerate(fields, start=2):
        try:
            ids = slow_csv.bag(bag, between, holds)
            values = slow_csv.bag_weights(weights, between)
            if len(ids) != len(values):
                raise slow_csv.BadLineError
            good.append((label, ids, values))
        except slow_csv.BadLineError:
            bad.append(line)
    return good, bad


@given(
    rows=logs(),
    separator=st.sampled_from("|;: "),
    most=st.sampled_from([None, 1, 2]),
    min_count=st.sampled_from([1, 2]),
    by_appearance=st.booleans(),
    max_ind_range=st.sampled_from([None, 5]),
    size=st.sampled_from([30, 1000]),
    file_format=st.sampled_from(["arrow", "parquet"]),
)
@settings(max_examples=50)
def test_any_csv_with_lists(
    tmp_path_factory,
    rows,
    separator,
    most,
    min_count,
    by_appearance,
    max_ind_range,
    size,
    file_format,
):
    folder = tmp_path_factory.mktemp("log")
    with open(folder / "log.csv", "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["y", "tags", "w"])
        writer.writerows([y, separator.join(bag), separator.join(w)] for y, bag, w in rows)
    good, bad = slow_rows(rows, separator)
    schema = Schema("y", (), (), ("tags",), ("w",))
    options = {
        "schema": schema, "list_separator": separator, "separator": ",", "max_length": most,
        "min_count": min_count, "ids": "appearance" if by_appearance else "raw", "threads": 1,
        "max_ind_range": max_ind_range, "shard_bytes": size, "file_format": file_format,
    }  # fmt: skip
    with patch.object(os, "fsync", lambda descriptor: None):  # nothing must be safe on a disk
        if bad:
            with pytest.raises(data_tools.ParseError) as caught:
                data_tools.ingest(folder / "log.csv", folder / "stopped", **options)
            assert caught.value.line == bad[0]
        manifest = data_tools.ingest(folder / "log.csv", folder / "out", on_error="skip", **options)
    assert (manifest.rows, manifest.rejected) == (len(good), len(bad))
    ids, weights = [row[1] for row in good], [row[2] for row in good]
    longer = sum(len(bag) > (most or 99) for bag in ids)
    kept = bags.last(ids, most or 99)
    expected = bags.prepared(kept, max_ind_range, by_appearance, min_count)
    assert read_bags(folder / "out", 1) == [weighed(expected, bags.last(weights, most or 99))]
    lengths = [len(bag) for bag in kept]
    assert manifest.lists == (ListFacts(sum(lengths), max(lengths, default=0), longer),)
    labels = [batch.labels for batch in data_tools.Dataset(folder / "out").batches(5)]
    assert np.concatenate([[], *labels]).tolist() == [row[0] for row in good]
    assert data_tools.verify(folder / "out") == []


BAD = {
    "1,1|2,1\n": "column w is '1', but a row must have as many weights as ids",
    "1,,1\n": "column w is '1', but a row must have as many weights as ids",
    "1,1|2,\n": "column w is None, but a row must have as many weights as ids",
    "1,1|2,1|inf\n": "column w is '1|inf', but weights must be finite numbers",
    "1,1|2,1|\n": "column w is '1|', but weights must be finite numbers",
    "1,1|2.5,1|2\n": "column p is '1|2.5', but a column of numbers must hold whole ids",
    "3,1,1\n": "column y is '3', but the label must be 0 or 1",
}


@pytest.mark.parametrize("line", BAD)
def test_a_bad_list_is_named_with_its_row_and_rule(tmp_path, line):
    schema = Schema("y", (), (), ("p",), ("w",))
    source = tmp_path / "log.csv"
    source.write_text("y,p,w\n" + "1,1|2,1|2\n" * 5 + line + "0,,\n")
    options = {"schema": schema, "list_separator": "|"}
    with pytest.raises(data_tools.ParseError) as caught:
        data_tools.ingest(source, tmp_path / "out", **options)
    assert (caught.value.file, caught.value.line) == (str(source), 7)
    assert caught.value.reason.startswith(BAD[line])
    manifest = data_tools.ingest(source, tmp_path / "out", on_error="skip", **options)
    assert (manifest.rows, manifest.rejected) == (6, 1)
    assert read_bags(tmp_path / "out", 1) == [[[(1, 1), (2, 2)]] * 5 + [[]]]
    (kept,) = (tmp_path / "out/shards-0/rejects.jsonl").read_text().splitlines()
    assert json.loads(kept)["line"] == 7


def test_a_bad_list_of_parquet(tmp_path):
    columns = {"y": [1, 0, 1], "p": [[1, 2], [3], [4]], "w": [[1.0, 2.0], [1.0], [1.0, 2.0]]}
    pq.write_table(pa.table(columns), tmp_path / "log.parquet")
    schema = Schema("y", (), (), ("p",), ("w",))
    with pytest.raises(data_tools.ParseError, match=r"parquet:3: column w is \[1.0, 2.0\], but a"):
        data_tools.ingest(tmp_path / "log.parquet", tmp_path / "out", schema=schema)
    dataset = data_tools.ParquetDataset(tmp_path / "log.parquet", schema)
    with pytest.raises(
        data_tools.DatasetError, match=r"row 3 of row group 0: column w: a row must"
    ):
        list(dataset.batches(3))


def test_options_that_do_not_fit_the_columns(tmp_path):
    (tmp_path / "log.csv").write_text("y,p,q\n1,2,3\n")
    (tmp_path / "log.tsv").write_text("1\tff\n")
    pq.write_table(
        pa.table({"y": [1], "p": [2], "q": [[[3]]], "z": [[4]]}), tmp_path / "log.parquet"
    )
    lists = Schema("y", (), (), ("p",))
    for name, schema, options, message in (
        ("log.csv", lists, {}, r"column p holds texts, but must hold lists of ids; name the"),
        ("log.parquet", lists, {}, r"column p is of type int64, but must hold lists of ids; name"),
        ("log.parquet", Schema("y", (), (), ("q",)), {}, r"column q .* must hold lists of ids"),
        (
            "log.parquet",
            Schema("y", (), (), ("z",), ("p",)),
            {},
            r"column p is of type int64, but must hold lists of numbers; give as many weights",
        ),
        (
            "log.csv",
            lists,
            {"list_separator": ","},
            r"separated by ',', which is the list_separator",
        ),
        ("log.csv", lists, {"list_separator": "||"}, r"list_separator is '\|\|'; it must be one"),
        ("log.csv", lists, {"list_separator": "|", "separator": "|"}, r"are both '\|'"),
        (
            "log.csv",
            lists,
            {"list_separator": "|", "max_length": 0},
            r"max_length is 0; it must be",
        ),
        ("log.csv", Schema("y", (), ("p",)), {"max_length": 3}, r"no column is multi-hot; name"),
        ("log.csv", Schema("y", (), ("p",)), {"list_separator": "|"}, r"no column is multi-hot"),
        ("log.tsv", lists, {}, r"the columns p are multi-hot, but Criteo text has no lists"),
    ):
        with pytest.raises(ValueError, match=message):
            data_tools.ingest(tmp_path / name, tmp_path / "out", schema=schema, **options)
    assert not (tmp_path / "out").exists()


def test_a_column_without_values_has_empty_lists(tmp_path):
    """As pandas writes a column of None, or of empty lists alone."""
    schema = Schema("y", (), (), ("p", "q"), ("w", None))
    columns = {"y": [1, 0], "p": pa.nulls(2), "q": [[], None], "w": [[], []]}
    pq.write_table(pa.table(columns), tmp_path / "log.parquet")
    manifest = data_tools.ingest(tmp_path / "log.parquet", tmp_path / "out", schema=schema)
    assert manifest.lists == (ListFacts(0, 0, 0),) * 2
    assert read_bags(tmp_path / "out") == [[[], []]] * 2
    assert data_tools.verify(tmp_path / "out") == []


def test_a_log_without_rows_has_lists_of_none(tmp_path):
    (tmp_path / "log.csv").write_text("y,p\n")
    manifest = data_tools.ingest(
        tmp_path / "log.csv",
        tmp_path / "out",
        schema=Schema("y", (), (), ("p",)),
        list_separator="|",
    )
    assert (manifest.lists, manifest.ids_per_row) == ((ListFacts(0, 0, 0),), (0.0,))
    assert data_tools.Dataset(tmp_path / "out").manifest == manifest
    assert read_bags(tmp_path / "out", 1) == [[]]
