"""JSON files that are damaged in any way: the documented errors, which name the file."""

import json
import shutil

import pytest

import data_tools
from data_tools.format.manifest import Manifest
from data_tools.ingestion.shard_records import load_record
from data_tools.storage.folders import folder_at
from robe_numba.spec import RobeSpec, TableSpec
from tests.data_tools.ingestion.test_ingest import SCHEMA, make_lines, shard_bytes, write

DEEP = 100_000
OPTIONS = {"schema": SCHEMA, "shard_bytes": 300, "threads": 1, "ids": "appearance"}
# One of every type of JSON, and some that are easily taken for another.
VALUES = [None, True, 0, 1, -1, 2**64, 10**400, 0.5, 1.0, "", "x", "\ud800", "7", [], [1], {}]
VALUES += [{"a": 1}, [[]], [None], [{}]]
# What no JSON text of ours is.
TEXTS = {
    "empty": b"",
    "NUL": bytes(100),
    "not UTF-8": b'"\xe9"',
    "deep lists": b"[" * DEEP,
    "deep objects": b'{"a":' * DEEP,
    "deep and closed": b"[" * 900 + b"]" * 900,
    "NaN": b"NaN",
    "a huge number": b"9" * 10_000,
    "a byte order mark": b"\xef\xbb\xbf{}",
    "two": b"{}{}",
    "a key": b'{"format_version": 3}',
    "a deep key": b'{"format_version": ' + b"[" * 900 + b"]" * 900 + b"}",
}


def places(value, path=()):
    """Ways to every value within, of lists only the first and last."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value)
    if isinstance(value, list):
        items = {0: value[0], len(value) - 1: value[-1]}.items() if value else ()
    for key, inner in items:
        if isinstance(inner, dict | list):
            yield from places(inner, (*path, key))
        else:
            yield (*path, key)


def damaged(value):
    """Copies, each harmed in one place, and what was done."""
    for path in places(value):
        for change in ("remove", "add", *VALUES):
            copy = json.loads(json.dumps(value))
            inner = copy
            for key in path[:-1]:
                inner = inner[key]
            if change == "remove":
                del inner[path[-1]]
            elif change == "add" and isinstance(inner, dict):
                inner["surprise"] = 1
            else:
                inner[path[-1]] = change
            yield f"{path}: {change!r}", copy


def damaged_texts(content):
    """As bytes: every damaged copy, what no file of ours is, and the file cut off anywhere."""
    for what, copy in damaged(json.loads(content)):
        yield what, json.dumps(copy).encode()
    yield from TEXTS.items()
    for cut in range(0, len(content), max(1, len(content) // 40)):
        yield f"cut at {cut}", content[:cut]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A dataset with known ids, and an unfinished ingest of the same rows and a bad line."""
    folder = tmp_path_factory.mktemp("json")
    rows = make_lines(20)
    data_tools.ingest(write(folder / "log.tsv", rows), folder / "data", **OPTIONS)
    source = write(folder / "bad.tsv", [*rows, "0"])
    with pytest.raises(data_tools.ParseError):
        data_tools.ingest(source, folder / "unfinished", **OPTIONS)
    data_tools.ingest(source, folder / "whole", on_error="skip", **OPTIONS)
    lists = write(folder / "lists.csv", ["y,films,stars", "1,7|8,0.5|1", "0,,"])
    schema = data_tools.Schema("y", (), (), ("films",), ("stars",))
    data_tools.ingest(lists, folder / "lists", schema=schema, list_separator="|", max_length=1)
    return folder


def error_of(call, *kinds):
    """The message of the error that a call raises, which must be of these kinds; or None."""
    try:
        call()
    except kinds as error:
        return str(error)
    return None


@pytest.mark.parametrize("name", ["data", "lists"])
def test_a_damaged_manifest(folder, name):
    path = folder / name / "manifest.json"
    good, read, refused = path.read_bytes(), 0, 0
    for what, content in damaged_texts(good):
        path.write_bytes(content)
        error = error_of(lambda: Manifest.load(folder_at(folder / name)), data_tools.DatasetError)
        if error is None:
            read += 1
            continue
        refused += 1
        assert str(path) in error, what
        assert "ingest the log again" in error, what
        assert len(error) < 2000, what
    path.write_bytes(good)
    assert data_tools.verify(folder / name) == []
    assert refused > 5 * read  # the name of a source, for one, may be any text


def test_a_damaged_plan(folder, tmp_path):
    out, path = tmp_path / "out", tmp_path / "out/.ingest/plan.json"
    shutil.copytree(folder / "unfinished", out)
    state = json.loads(path.read_bytes())
    plans = list(damaged_texts(state["plan"].encode()))[::7]
    texts = [json.dumps(state | {"plan": text.decode("latin-1")}).encode() for _, text in plans]
    for what, content in [*damaged_texts(path.read_bytes()), *zip(plans, texts, strict=True)]:
        path.write_bytes(content)
        # Another plan that stops at once, so that the folder stays as it is.
        with pytest.raises((FileExistsError, data_tools.DatasetError)) as caught:
            data_tools.ingest(folder / "log.tsv", out, **OPTIONS | {"min_count": 2})
        assert str(out) in str(caught.value), what
        assert "overwrite" in str(caught.value), what
    path.write_bytes(b"{")
    data_tools.ingest(folder / "bad.tsv", out, on_error="skip", overwrite=True, **OPTIONS)
    assert shard_bytes(out) == shard_bytes(folder / "whole")
    assert data_tools.verify(out) == []


def test_a_damaged_record_counts_as_none(folder, tmp_path):
    """Whole or not: the shard is made again, which costs time and loses nothing."""
    out = tmp_path / "out"
    shutil.copytree(folder / "unfinished", out)
    path = out / ".ingest/counts/000-00001.json"
    good, read, refused = path.read_bytes(), 0, 0
    for _, content in damaged_texts(good):
        path.write_bytes(content)
        if load_record(folder_at(out), "counts", 0, 1) is None:
            refused += 1
        else:
            read += 1
    assert refused > 5 * read
    for content in (good[:-1], good.replace(b'"rows"', b'"sorrows"'), b"[" * DEEP):
        shutil.rmtree(out)
        shutil.copytree(folder / "unfinished", out)
        path.write_bytes(content)
        manifest = data_tools.ingest(folder / "bad.tsv", out, on_error="skip", **OPTIONS)
        assert (manifest.rows, manifest.rejected) == (20, 1)
        assert shard_bytes(out) == shard_bytes(folder / "whole")


@pytest.mark.parametrize("spec", [RobeSpec(64, 4, 8, 3, (5, 6, 7)), TableSpec((3, 4), 2)])
def test_a_damaged_spec(spec):
    for what, content in damaged_texts(spec.to_json().encode()):
        for text in (content, content.decode("latin-1")):
            error = error_of(lambda text=text: type(spec).from_json(text), TypeError, ValueError)
            assert error is None or len(error) < 3000, what
    for deep in ("[" * DEEP, '{"a":' * DEEP, '{"num_embeddings":' + "[" * DEEP):
        with pytest.raises(ValueError, match="nested too deeply"):
            type(spec).from_json(deep)
