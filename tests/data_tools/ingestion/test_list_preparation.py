"""Lists of ids through vocabularies, threads, addresses and kills; and older versions' files."""

import json
import subprocess
import sys

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import data_tools
from data_tools.format.manifest import ListFacts
from data_tools.schema import Schema
from tests.data_tools.ingestion.test_ingest import shard_bytes, write
from tests.data_tools.ingestion.test_ingest_lists import FILMS, SCHEMA, read_bags, weighed
from tests.data_tools.ingestion.test_resume import KILL_POINTS, ROOT
from tests.support import bags

# Of a manifest before there were lists, and of its options.
KEYS = [
    "format_version", "schema", "sources", "options", "rows", "positives", "rejected", "labelled",
    "index_dtype", "folder", "block_rows", "shards", "vocabulary", "created_by",
]  # fmt: skip
OPTIONS = [
    "format", "dense_transform", "on_error", "max_ind_range", "ids", "min_count", "file_format",
    "compression",
]  # fmt: skip


def test_later_rows_get_the_numbers_of_the_first(tmp_path):
    options = {"schema": SCHEMA, "list_separator": "|", "ids": "appearance", "min_count": 2}
    (tmp_path / "films.csv").write_text(FILMS)
    first = data_tools.ingest(tmp_path / "films.csv", tmp_path / "first", **options)
    assert [file.rows for file in first.vocabulary] == [3, 2, 3, 3]
    header = FILMS.splitlines()[0]
    (tmp_path / "later.csv").write_text(f"{header}\n1,2,1,Horror|Drama,2|31|1061,1|1|1\n")
    options |= {"vocabulary": tmp_path / "first"}
    later = data_tools.ingest(tmp_path / "later.csv", tmp_path / "later", **options)
    assert later.vocabulary == first.vocabulary
    # Known: Drama, Adventure, Children; 1029, 1061, 2, in the order of their appearance.
    assert read_bags(tmp_path / "later") == [[[(3, 1), (0, 1)]], [[(2, 1), (3, 1), (1, 1)]]]
    fewer = Schema("liked", (), (*SCHEMA.categorical, "genres"), ("history",))
    with pytest.raises(ValueError, match=r"was made with categorical = "):
        data_tools.ingest(tmp_path / "later.csv", tmp_path / "no", **options | {"schema": fewer})
    with pytest.raises(ValueError, match=r"made with max_length = None, but this ingest has 5"):
        data_tools.ingest(tmp_path / "later.csv", tmp_path / "no", **options, max_length=5)


def long_log(folder, rows=4000):
    """A CSV and a Parquet file of random lists, and the lists."""
    rng = np.random.default_rng(7)
    lists = [rng.integers(0, 300, rng.integers(0, 9)).tolist() for _ in range(rows)]
    lines = [f"{row % 2},{'|'.join(map(str, bag))}" for row, bag in enumerate(lists)]
    half = rows // 2
    write(folder / "log.csv", ["y,p", *lines[:half]])
    columns = {"y": np.arange(half) % 2, "p": lists[half:]}
    pq.write_table(pa.table(columns), folder / "log.parquet", row_group_size=300)
    return [folder / "log.csv", folder / "log.parquet"], lists


LONG = {
    "schema": Schema("y", (), (), ("p",)), "list_separator": "|", "max_length": 6,
    "shard_bytes": 9000, "ids": "appearance", "min_count": 20,
}  # fmt: skip


@pytest.mark.parametrize("extra", [{}, {"file_format": "parquet", "compression": "lz4"}])
def test_the_bytes_are_the_same_on_any_number_of_threads_and_at_an_address(tmp_path, extra):
    sources, lists = long_log(tmp_path)
    manifests = [
        data_tools.ingest(sources, tmp_path / f"{threads}", threads=threads, **LONG, **extra)
        for threads in (1, 2, 3)
    ]
    assert manifests[0] == manifests[1] == manifests[2]
    assert len(manifests[0].shards) > 5
    expected = shard_bytes(tmp_path / "1")
    assert shard_bytes(tmp_path / "2") == shard_bytes(tmp_path / "3") == expected
    found = read_bags(tmp_path / "1", 1)[0]
    kept = bags.last(lists, 6)
    assert found == weighed(bags.prepared(kept, by_appearance=True, min_count=20))
    longer = sum(len(bag) > 6 for bag in lists)
    assert manifests[0].lists == (ListFacts(sum(map(len, kept)), 6, longer),)
    memory = fsspec.filesystem("memory")
    for source in sources:
        memory.pipe(f"/{tmp_path.name}/{source.name}", source.read_bytes())
    there = f"memory://{tmp_path.name}"
    addresses = [f"{there}/{source.name}" for source in sources]
    # Threads would share the position in a file that is in memory.
    options = {**LONG, **extra, "threads": 1}
    assert data_tools.ingest(addresses, f"{there}/out", **options) == manifests[0]
    assert data_tools.verify(f"{there}/out") == []
    for name, content in expected.items():
        assert memory.cat(f"/{tmp_path.name}/out/shards-0/{name}") == content
    assert read_bags(f"{there}/out", 1)[0] == found


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_killed_at_any_call_the_lists_are_the_same(tmp_path):
    """A child is killed at each of its calls of the system; then the same ingest ends well."""
    rows = ["1,1|2|3,4|5|6", "0,,", "1,3|3,1|2", "0,7,1"]
    source = write(tmp_path / "log.csv", ["y,p,w", *rows])
    ended = tmp_path / "ended"
    ended.mkdir()
    code = KILL_POINTS.replace('Schema("y", ("a",), ("p",))', 'Schema("y", (), (), ("p",), ("w",))')
    assert code != KILL_POINTS
    options = {"list_separator": "|", "max_length": 2, "ids": "appearance", "shard_bytes": 30}
    done = subprocess.run(
        [sys.executable, "-c", code, "none", str(ended), str(source), json.dumps(options)],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    folders = sorted(ended.iterdir(), key=lambda path: int(path.name))
    assert len(folders) > 30
    first = data_tools.Dataset(folders[0]).manifest
    assert first.lists == (ListFacts(5, 2, 1),)
    assert len(first.shards) > 1
    for folder in folders:
        assert data_tools.Dataset(folder).manifest == first
        assert shard_bytes(folder) == shard_bytes(folders[0])


def test_a_record_without_its_lists_is_made_again(tmp_path):
    source = write(tmp_path / "log.csv", ["y,p", *["1,1|2"] * 50, "x,1"])
    options = {"schema": LONG["schema"], "list_separator": "|", "shard_bytes": 60, "threads": 1}
    with pytest.raises(data_tools.ParseError):
        data_tools.ingest(source, tmp_path / "out", **options)
    records = sorted((tmp_path / "out/.ingest/parts").iterdir())
    assert len(records) > 3
    for record in records[:2]:
        content = json.loads(record.read_text())
        record.write_text(json.dumps(content | {"lists": []}))
    manifest = data_tools.ingest(source, tmp_path / "out", on_error="skip", **options)
    assert manifest.lists == (ListFacts(100, 2, 0),)
    assert data_tools.verify(tmp_path / "out") == []


def test_what_is_written_without_lists_is_as_before(tmp_path):
    source = write(tmp_path / "log.csv", ["y,p", *["1,1"] * 50, "x,1"])
    options = {"schema": Schema("y", (), ("p",)), "shard_bytes": 60, "threads": 1}
    with pytest.raises(data_tools.ParseError):
        data_tools.ingest(source, tmp_path / "out", **options)
    # An ingest that an older version began is resumed.
    path = tmp_path / "out/.ingest/plan.json"
    state = json.loads(path.read_text())
    plan = json.loads(state["plan"])
    assert list(plan["schema"]) == ["label", "dense", "categorical"]
    plan["options"] = {name: plan["options"][name] for name in OPTIONS} | {"separator": None}
    path.write_text(json.dumps(state | {"plan": json.dumps(plan)}))
    before = {path: path.stat().st_ino for path in tmp_path.glob("out/shards-0/*")}
    assert len(before) > 2
    for record in tmp_path.glob("out/.ingest/parts/*"):
        content = json.loads(record.read_text())
        del content["lists"]
        record.write_text(json.dumps(content))
    data_tools.ingest(source, tmp_path / "out", on_error="skip", **options)
    after = {path: path.stat().st_ino for path in tmp_path.glob("out/shards-0/*")}
    assert before.items() <= after.items()
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert list(manifest) == KEYS
    assert list(manifest["options"]) == OPTIONS
    assert list(manifest["schema"]) == ["label", "dense", "categorical"]
    assert data_tools.Dataset(tmp_path / "out").manifest.ids_per_row == ()
