"""From Criteo text to a finished folder, and to no folder where something is wrong."""

import gzip
import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

import data_tools
from data_tools.schema import CRITEO, Schema

SCHEMA = Schema("y", ("a", "b", "c"), ("p", "q", "r", "s", "t"))


def make_lines(count, labelled=True, schema=SCHEMA):
    """Lines of text whose every field tells its row and column."""
    lines = []
    for row in range(count):
        fields = [str(row % 3 % 2)] if labelled else []
        fields += [str(10 * row + i) for i in range(schema.num_dense)]
        fields += [f"{256 * row + i:08x}" for i in range(schema.num_categorical)]
        lines.append("\t".join(fields))
    return lines


def write(path, lines, ending="\n"):
    """Write lines, gzipped where the name says so."""
    data = "".join(line + ending for line in lines).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def shard_bytes(folder):
    """Content of every shard, by name."""
    return {path.name: path.read_bytes() for path in sorted(folder.glob("shards-*/part-*"))}


def shards_of(text, shard_bytes):
    """Rows of each shard: lines by the bytes in which they begin."""
    rows, offset = {}, 0
    for line in text.splitlines(keepends=True):
        rows[offset // shard_bytes] = rows.get(offset // shard_bytes, 0) + 1
        offset += len(line)
    return [(f"part-000-{number:05d}.arrow", count) for number, count in sorted(rows.items())]


def test_rows_manifest_and_shards(tmp_path):
    source = write(tmp_path / "day_0", make_lines(10))
    manifest = data_tools.ingest(source, tmp_path / "out", schema=SCHEMA, shard_bytes=200)
    shards = [(shard.name, shard.rows) for shard in manifest.shards]
    assert shards == shards_of(source.read_bytes(), 200)
    assert len(shards) > 2
    assert {shard.source for shard in manifest.shards} == {0}
    assert (manifest.rows, manifest.positives, manifest.rejected) == (10, 3, 0)
    assert manifest.labelled
    assert manifest.index_dtype == "uint32"
    assert [(s.name, s.bytes) for s in manifest.sources] == [("day_0", source.stat().st_size)]
    dataset = data_tools.Dataset(tmp_path / "out")
    assert dataset.manifest == manifest
    assert dataset.schema == SCHEMA
    (batch,) = dataset.split("all").batches(10)
    row = np.arange(10)[:, None]
    np.testing.assert_array_equal(batch.labels, np.arange(10) % 3 % 2)
    np.testing.assert_allclose(batch.dense, np.log(10 * row + np.arange(3) + 1), rtol=1e-6)
    np.testing.assert_array_equal(batch.indices, 256 * row + np.arange(5))


def test_the_criteo_schema(tmp_path):
    assert (CRITEO.num_dense, CRITEO.num_categorical) == (13, 26)
    source = write(tmp_path / "train.txt", make_lines(3, schema=CRITEO))
    data_tools.ingest(source, tmp_path / "out")
    (batch,) = data_tools.Dataset(tmp_path / "out").split("all").batches(3)
    assert (batch.dense.shape, batch.indices.shape) == ((3, 13), (3, 26))


def test_schema_rules():
    assert Schema.from_json(json.loads(json.dumps(SCHEMA.to_json()))) == SCHEMA
    assert hash(Schema("y", ["a"], [])) == hash(Schema("y", ("a",), ()))
    with pytest.raises(ValueError, match="a, p occurs twice"):
        Schema("y", ("a", "p", "a"), ("p",))
    with pytest.raises(ValueError, match="at least one"):
        Schema("y", (), ())
    for weights in ((None,), (None,) * 3, ("v",)):
        with pytest.raises(ValueError, match=f"{len(weights)} weights for 2 multi-hot columns; gi"):
            Schema("y", (), (), ("p", "q"), weights)
    with pytest.raises(ValueError, match="a column name is empty"):
        Schema("y", (), (), ("p",), ("",))
    assert Schema("y", (), (), ("p", "q"), [None, None]) == Schema("y", (), (), ("p", "q"))
    with pytest.raises(TypeError, match="give a tuple"):
        Schema("y", "abc", ())
    with pytest.raises(ValueError, match="keys"):
        Schema.from_json({"label": "y", "dense": []})


def test_endings_and_gzip_change_nothing(tmp_path):
    lines = make_lines(50)
    plain = write(tmp_path / "log.tsv", lines)
    data_tools.ingest(plain, tmp_path / "plain", schema=SCHEMA)
    expected = shard_bytes(tmp_path / "plain")
    crlf = write(tmp_path / "crlf.tsv", lines, ending="\r\n")
    zipped = write(tmp_path / "log.gz", lines)
    members = tmp_path / "members.gz"
    members.write_bytes(b"".join(gzip.compress(f"{line}\n".encode()) for line in lines))
    for source in (plain, crlf, zipped, members):
        for block_bytes in (1, 100, 1 << 20):
            folder = tmp_path / f"{source.name}-{block_bytes}"
            data_tools.ingest(source, folder, schema=SCHEMA, block_bytes=block_bytes)
            assert shard_bytes(folder) == expected


def test_unlabelled_text(tmp_path):
    source = write(tmp_path / "test.txt", make_lines(5, labelled=False))
    manifest = data_tools.ingest(source, tmp_path / "out", schema=SCHEMA)
    assert (manifest.rows, manifest.positives, manifest.labelled) == (5, None, False)
    dataset = data_tools.Dataset(tmp_path / "out")
    assert not dataset.labelled
    assert dataset.click_rate is None
    (batch,) = dataset.split("all").batches(5)
    assert batch.labels is None
    np.testing.assert_array_equal(batch.indices[:, 4], 256 * np.arange(5) + 4)
    with pytest.raises(ValueError, match="no labels"):
        dataset.split("all").labels()


def test_labelled_and_unlabelled_do_not_mix(tmp_path):
    labelled = write(tmp_path / "a.tsv", make_lines(2))
    unlabelled = write(tmp_path / "b.tsv", make_lines(2, labelled=False))
    with pytest.raises(data_tools.ParseError, match=r"b.tsv:1: this file has no labels"):
        data_tools.ingest([labelled, unlabelled], tmp_path / "out", schema=SCHEMA, on_error="skip")
    mixed = write(tmp_path / "c.tsv", make_lines(2) + make_lines(1, labelled=False))
    with pytest.raises(data_tools.ParseError, match=r"c.tsv:3: expected 9 fields .*found 8"):
        data_tools.ingest(mixed, tmp_path / "out", schema=SCHEMA)
    wrong = write(tmp_path / "d.tsv", ["a\tb"])
    with pytest.raises(data_tools.ParseError, match=r"9 fields \(labelled\) or 8 \(unlabelled\)"):
        data_tools.ingest(wrong, tmp_path / "out", schema=SCHEMA)


def test_one_broken_line_does_not_decide_whether_a_file_is_labelled(tmp_path):
    for labelled in (True, False):
        lines = make_lines(1000, labelled)
        other = lines[0] + "\t0" if not labelled else lines[0].rpartition("\t")[0]
        source = write(tmp_path / "log.tsv", [other, *lines])
        for block_bytes in (1, 1 << 20):
            folder = tmp_path / f"{labelled}-{block_bytes}"
            manifest = data_tools.ingest(
                source, folder, schema=SCHEMA, on_error="skip", block_bytes=block_bytes
            )
            assert (manifest.labelled, manifest.rows, manifest.rejected) == (labelled, 1000, 1)
        here, there = ("labelled", "unlabelled") if labelled else ("unlabelled", "labelled")
        reason = rf"log.tsv:1: expected . fields \({here}\), found . as {there} lines have"
        with pytest.raises(data_tools.ParseError, match=reason):
            data_tools.ingest(source, tmp_path / "stop", schema=SCHEMA)


def test_labels_that_are_asked_for(tmp_path):
    for has in (True, False):
        source = write(tmp_path / f"{has}.tsv", make_lines(2, has))
        data_tools.ingest(source, tmp_path / f"{has}", schema=SCHEMA, labelled=has)
        assert data_tools.Dataset(tmp_path / f"{has}").labelled == has
        with pytest.raises(data_tools.ParseError, match=f"labelled={not has} asked for that"):
            data_tools.ingest(source, tmp_path / "out", schema=SCHEMA, labelled=not has)


def test_a_byte_order_mark_is_skipped(tmp_path):
    lines = make_lines(3)
    plain = write(tmp_path / "plain.tsv", lines)
    marked = tmp_path / "marked.tsv"
    marked.write_bytes(b"\xef\xbb\xbf" + plain.read_bytes())
    data_tools.ingest(plain, tmp_path / "plain", schema=SCHEMA)
    for block_bytes in (1, 1 << 20):
        folder = tmp_path / f"marked-{block_bytes}"
        data_tools.ingest(marked, folder, schema=SCHEMA, block_bytes=block_bytes)
        assert shard_bytes(folder) == shard_bytes(tmp_path / "plain")
    # It is part of the first line's text only at the very beginning.
    later = write(tmp_path / "later.tsv", [lines[0], "\ufeff" + lines[1]])
    with pytest.raises(data_tools.ParseError, match=r"later.tsv:2: field 1 \(y\)"):
        data_tools.ingest(later, tmp_path / "out", schema=SCHEMA)


WITHOUT_ISAL = """
import sys
sys.modules["isal"] = None  # so that importing it fails
import data_tools
data_tools.ingest(sys.argv[1], sys.argv[2], schema=data_tools.Schema("y", ("a",), ("p",)))
print(data_tools.verify(sys.argv[2]))
"""


@pytest.mark.parametrize(("name", "fails"), [("log.tsv", False), ("log.tsv.gz", True)])
def test_isal_is_needed_for_gzip_alone(name, fails, tmp_path):
    """What is written without it has the checksums that it makes."""
    source = write(tmp_path / name, ["1\t2\tab", "0\t3\tcd"])
    command = [sys.executable, "-c", WITHOUT_ISAL, source, tmp_path / "out"]
    finished = subprocess.run(command, capture_output=True, text=True)
    if fails:
        assert f"{name} needs isal: pip install 'robe-numba[data]'" in finished.stderr
    else:
        assert finished.stdout == "[]\n", finished.stderr
        assert data_tools.verify(tmp_path / "out") == []


def test_a_pipe_is_no_source(tmp_path):
    os.mkfifo(tmp_path / "pipe.tsv")
    with pytest.raises(ValueError, match=r"pipe.tsv is not a regular file"):
        data_tools.ingest(tmp_path / "pipe.tsv", tmp_path / "out", schema=SCHEMA)


def test_several_sources_in_order_with_progress(tmp_path):
    lines = make_lines(9)
    sources = [write(tmp_path / f"day_{i}.gz", lines[3 * i : 3 * i + 3]) for i in range(3)]
    calls = []
    manifest = data_tools.ingest(
        sources, tmp_path / "out", schema=SCHEMA, progress=lambda *call: calls.append(call)
    )
    assert manifest.rows_per_source() == [3, 3, 3]
    whole = write(tmp_path / "whole.tsv", lines)
    data_tools.ingest(whole, tmp_path / "whole", schema=SCHEMA)
    joined, (expected,) = (
        list(data_tools.Dataset(tmp_path / name).split("all").batches(9))
        for name in ("out", "whole")
    )
    joined = [batch[:3] for batch in joined]
    for array, parts in zip(expected[:3], zip(*joined, strict=True), strict=True):
        np.testing.assert_array_equal(np.concatenate(parts), array)
    total = sum(source.stat().st_size for source in sources)
    assert {call[1] for call in calls} == {total}
    assert calls == sorted(calls)
    assert calls[-1] == (total, total, 9)


def test_skip_counts_the_bad_lines_and_keeps_a_hundred(tmp_path):
    lines = make_lines(400)
    bad = list(range(1, 400, 2))
    for row in bad:
        lines[row] = lines[row].replace("\t", "\tx", 1)
    lines[bad[0]] = "0\t\xe9\t"
    source = tmp_path / "log.tsv"
    source.write_bytes("\n".join(lines).encode("latin-1"))
    out = tmp_path / "out"
    manifest = data_tools.ingest(source, out, schema=SCHEMA, on_error="skip", block_bytes=99)
    assert (manifest.rows, manifest.rejected) == (200, 200)
    kept = [
        json.loads(line) for line in (out / "shards-0" / "rejects.jsonl").read_text().splitlines()
    ]
    assert [reject["line"] for reject in kept] == [row + 1 for row in bad[:100]]
    assert kept[0]["text"] == "0\t\ufffd\t"
    assert kept[0]["reason"].startswith("not UTF-8")
    assert kept[1] == {
        "file": str(source),
        "line": bad[1] + 1,
        "reason": "field 2 (a) is 'x30', but a dense field must be empty or an integer",
        "text": lines[bad[1]],
    }
    (batch,) = data_tools.Dataset(out).split("all").batches(200)
    np.testing.assert_array_equal(batch.indices[:, 0], 256 * np.arange(0, 400, 2))


@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_a_damaged_gzip_stops_at_the_line_reached(tmp_path, on_error):
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 2**32, (3000, 2)).tolist()
    lines = [f"0\t{first:08x}\t{second:08x}" for first, second in ids]
    schema = Schema("y", (), ("p", "q"))
    whole = gzip.compress("\n".join(lines).encode())
    for name, data in (
        ("cut", whole[: len(whole) // 2]),
        ("trailer", whole[:-4]),
        ("flipped", whole[:9000] + bytes(500) + whole[9500:]),
        ("empty", b""),
        ("junk", b"\x1f\x00\x01\x02\n"),
    ):
        source = tmp_path / f"{name}.gz"
        source.write_bytes(data)
        with pytest.raises(data_tools.ParseError, match="cut off or corrupt") as caught:
            data_tools.ingest(source, tmp_path / "out", schema=schema, on_error=on_error)
        assert caught.value.file == str(source)
        # What was inflated in the MiB before the damage may be lost.
        reached = {"cut": (1, 1600), "trailer": (1, 3001), "flipped": (1, 1200)}
        low, high = reached.get(name, (1, 1))
        assert low <= caught.value.line <= high
        assert not (tmp_path / "out").exists()


def test_no_rows(tmp_path):
    empty = write(tmp_path / "empty.tsv", [])
    with pytest.raises(data_tools.ParseError, match=r"empty.tsv:1: the file is empty"):
        data_tools.ingest(empty, tmp_path / "out", schema=SCHEMA)
    junk = write(tmp_path / "junk.tsv", ["hello", "world"])
    with pytest.raises(data_tools.ParseError, match=r"none of the first 2 lines has 9 fields"):
        data_tools.ingest(junk, tmp_path / "out", schema=SCHEMA, on_error="skip")
    bad = write(tmp_path / "bad.tsv", ["label" + "\tx" * 8])
    manifest = data_tools.ingest(bad, tmp_path / "out", schema=SCHEMA, on_error="skip")
    assert (manifest.rows, manifest.rejected, manifest.shards) == (0, 1, ())


def test_a_parse_error_keeps_its_parts_when_pickled():
    error = pickle.loads(pickle.dumps(data_tools.ParseError("a.tsv", 3, "no")))
    assert (str(error), error.file, error.line, error.reason) == ("a.tsv:3: no", "a.tsv", 3, "no")


def test_wrong_arguments(tmp_path):
    source = write(tmp_path / "log.tsv", make_lines(1))
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="no sources"):
        data_tools.ingest([], out)
    with pytest.raises(FileNotFoundError, match="no source"):
        data_tools.ingest(tmp_path / "absent", out)
    with pytest.raises(IsADirectoryError, match="name the files"):
        data_tools.ingest(tmp_path, out)
    with pytest.raises(FileExistsError, match="is a file"):
        data_tools.ingest(source, source)
    for options in ({"format": "tsv"}, {"on_error": "warn"}, {"dense_transform": "log"}):
        with pytest.raises(ValueError, match=f"{next(iter(options))} is .* choose one of"):
            data_tools.ingest(source, out, schema=SCHEMA, **options)
    for scheduler in ("dask", ""):
        with pytest.raises(ValueError, match=r"scheduler is .*; choose threads, local, or .*tcp:"):
            data_tools.ingest(source, out, schema=SCHEMA, scheduler=scheduler)
    table = tmp_path / "log.csv"
    table.write_text("a\n1\n")
    with pytest.raises(ValueError, match="mixed"):
        data_tools.ingest([source, table], out)
    assert not out.exists()
