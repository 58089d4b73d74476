"""Ingests that were stopped, and what is in their way: shards stay, nothing is doubled."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import data_tools
from data_tools.ingestion.shard_records import save_record
from tests.data_tools.ingestion.test_ingest import SCHEMA, make_lines, shard_bytes, write

ROOT = Path(__file__).resolve().parents[3]
SIZE = 300  # bytes of text per shard: some five lines


def files_in(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def expected_shards(source, folder, **options):
    """Shards of an ingest that nothing stopped."""
    data_tools.ingest(source, folder, schema=SCHEMA, shard_bytes=SIZE, **options)
    return shard_bytes(folder)


def test_a_failure_before_the_first_shard_leaves_the_folder_as_it_was(tmp_path):
    out = tmp_path / "out"
    bad = write(tmp_path / "bad.tsv", [*make_lines(9), "0"])
    with pytest.raises(data_tools.ParseError):
        data_tools.ingest(bad, out, schema=SCHEMA)
    assert not out.exists()
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(data_tools.ParseError):
        data_tools.ingest(bad, out, schema=SCHEMA)
    assert files_in(out) == ["notes.txt"]
    with pytest.raises(FileNotFoundError, match="did not finish"):
        data_tools.Dataset(out)


@pytest.mark.parametrize("name", ["log.tsv", "log.gz"])
def test_a_bad_line_at_the_end_costs_its_shard_alone(tmp_path, name):
    source = write(tmp_path / name, [*make_lines(60), "0", *make_lines(1)])
    out = tmp_path / "out"
    options = {"schema": SCHEMA, "shard_bytes": SIZE, "threads": 1}
    with pytest.raises(data_tools.ParseError, match=r":61: expected 9 fields") as caught:
        data_tools.ingest(source, out, **options)
    assert "shards are kept" in caught.value.__notes__[0]
    before = {path: path.stat().st_ino for path in out.glob("shards-0/*")}
    assert len(before) > 5
    # The remedy of the message goes on with what is there.
    manifest = data_tools.ingest(source, out, on_error="skip", **options)
    assert (manifest.rows, manifest.rejected) == (61, 1)
    assert before.items() <= {path: path.stat().st_ino for path in out.glob("shards-0/*")}.items()
    assert shard_bytes(out) == expected_shards(source, tmp_path / "whole", on_error="skip")
    assert not (out / ".ingest").exists()
    (line,) = (out / "shards-0" / "rejects.jsonl").read_text().splitlines()
    assert json.loads(line)["line"] == 61


def test_another_ingest_does_not_take_over_what_is_there(tmp_path):
    source = write(tmp_path / "log.tsv", [*make_lines(60), "0"])
    out = tmp_path / "out"
    with pytest.raises(data_tools.ParseError):
        data_tools.ingest(source, out, schema=SCHEMA, shard_bytes=SIZE)
    other = {"schema": SCHEMA, "shard_bytes": SIZE, "on_error": "skip", "dense_transform": "none"}
    with pytest.raises(FileExistsError, match="unfinished ingest that differs in dense_transform"):
        data_tools.ingest(source, out, **other)
    assert data_tools.ingest(source, out, overwrite=True, **other).rows == 60
    assert data_tools.verify(out) == []
    # A source that was edited is another source.
    again = tmp_path / "again"
    with pytest.raises(data_tools.ParseError):
        data_tools.ingest(source, again, schema=SCHEMA, shard_bytes=SIZE)
    write(source, make_lines(60))
    with pytest.raises(FileExistsError, match="differs in sources"):
        data_tools.ingest(source, again, schema=SCHEMA, shard_bytes=SIZE)


def test_overwrite(tmp_path):
    out = tmp_path / "out"
    old = write(tmp_path / "old.tsv", [*make_lines(9), "0"])
    data_tools.ingest(old, out, schema=SCHEMA, on_error="skip")
    (out / "notes.txt").write_text("mine")
    before = shard_bytes(out)
    new = write(tmp_path / "new.tsv", make_lines(3))
    with pytest.raises(FileExistsError, match="overwrite"):
        data_tools.ingest(new, out, schema=SCHEMA)
    # A failure keeps the old dataset whole.
    with pytest.raises(data_tools.ParseError):
        data_tools.ingest(old, out, schema=SCHEMA, overwrite=True)
    assert shard_bytes(out) == before
    assert data_tools.Dataset(out).num_rows == 9
    data_tools.ingest(new, out, schema=SCHEMA, overwrite=True)
    assert data_tools.Dataset(out).num_rows == 3
    assert files_in(out) == ["manifest.json", "notes.txt", "shards-1/part-000-00000.arrow"]


def test_an_overwriting_ingest_that_was_stopped_goes_on_too(tmp_path):
    out = tmp_path / "out"
    data_tools.ingest(write(tmp_path / "old.tsv", make_lines(9)), out, schema=SCHEMA)
    new = write(tmp_path / "new.tsv", [*make_lines(60), "0"])
    options = {"schema": SCHEMA, "shard_bytes": SIZE, "threads": 1}
    with pytest.raises(data_tools.ParseError):
        data_tools.ingest(new, out, overwrite=True, **options)
    kept = {path: path.stat().st_ino for path in out.glob("shards-1/*")}
    assert kept
    with pytest.raises(FileExistsError, match="holds a finished dataset"):
        data_tools.ingest(new, out, on_error="skip", **options)
    assert data_tools.Dataset(out).num_rows == 9
    data_tools.ingest(new, out, on_error="skip", overwrite=True, **options)
    assert data_tools.Dataset(out).num_rows == 60
    assert kept.items() <= {path: path.stat().st_ino for path in out.glob("shards-1/*")}.items()
    assert not (out / "shards-0").exists()


def test_a_file_of_someone_else_is_in_the_way_or_survives(tmp_path):
    out = tmp_path / "out"
    source = write(tmp_path / "log.tsv", make_lines(9))
    others = {"shards-0/mine.arrow", "part-0.arrow", ".ingest-notes/a"}
    for name in others:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(name)
    data_tools.ingest(source, out, schema=SCHEMA)
    assert data_tools.Dataset(out).manifest.folder == "shards-1"
    assert all((out / name).read_text() == name for name in others)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "manifest.json").write_text('{"name": "web app"}')
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match=r"manifest.json is in the way"):
            data_tools.ingest(source, foreign, schema=SCHEMA, overwrite=overwrite)
    assert files_in(foreign) == ["manifest.json"]


def test_of_two_ingests_into_one_folder_one_is_refused(tmp_path):
    out = tmp_path / "out"
    first = write(tmp_path / "first.tsv", make_lines(9))
    refusals = []

    def interfere(done, total, rows):
        with pytest.raises(FileExistsError, match="another ingest is writing to") as caught:
            data_tools.ingest(first, out, schema=SCHEMA, overwrite=True)
        refusals.append(caught)

    data_tools.ingest(first, out, schema=SCHEMA, progress=interfere)
    assert refusals
    assert data_tools.Dataset(out).num_rows == 9
    assert files_in(out) == ["manifest.json", "shards-0/part-000-00000.arrow"]


CHILD = """
import sys, data_tools
from tests.data_tools.ingestion.test_ingest import SCHEMA
if __name__ == "__main__":
    source, out, size, scheduler = sys.argv[1:5]
    data_tools.ingest(source, out, schema=SCHEMA, shard_bytes=int(size), threads=1,
                      scheduler=scheduler)
"""


def start_child(source, out, scheduler="threads"):
    code = [sys.executable, "-c", CHILD, str(source), str(out), str(SIZE), scheduler]
    return subprocess.Popen(code, cwd=ROOT)


@pytest.mark.parametrize("name", ["log.tsv", "log.gz"])
def test_killed_at_any_moment_it_goes_on_where_it_was(tmp_path, name):
    """Killed again and again, each time a little later, until it ends by itself."""
    source = write(tmp_path / name, make_lines(1000))
    expected = expected_shards(source, tmp_path / "whole")
    out, kills, kept = tmp_path / "out", 0, {}
    for wait in range(1, 60):
        child = start_child(source, out)
        records = out / ".ingest" / "parts"
        seen = len(list(records.glob("*"))) if records.is_dir() else 0
        deadline = time.monotonic() + 120
        # Until it has made some more shards, and then at whatever it is doing.
        while child.poll() is None and time.monotonic() < deadline:
            now = len(list(records.glob("*"))) if records.is_dir() else 0
            if now >= seen + 10 * wait:
                break
            time.sleep(0.001)
        if child.poll() is not None:
            assert child.returncode == 0
            break
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        kills += 1
        with pytest.raises(FileNotFoundError, match="did not finish"):
            data_tools.Dataset(out)
        finished = {p.stem.partition(".")[0] for p in records.glob("*.json")}
        inodes = {
            p.name: p.stat().st_ino
            for p in out.glob("shards-0/part-*.arrow")
            if p.stem.removeprefix("part-") in finished
        }
        assert kept.items() <= inodes.items()  # no finished shard was made again
        kept = inodes
    assert kills >= 2
    assert shard_bytes(out) == expected
    assert data_tools.verify(out) == []
    assert data_tools.Dataset(out).num_rows == 1000
    assert not (out / ".ingest").exists()


def test_killed_after_the_manifest_it_only_tidies_up(tmp_path, monkeypatch):
    source = write(tmp_path / "log.tsv", make_lines(9))
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr("data_tools.storage.folders.LocalFolder.remove", lambda self, name: None)
        data_tools.ingest(source, out, schema=SCHEMA)
    assert (out / ".ingest").exists()
    before = (out / "manifest.json").stat().st_mtime_ns
    assert data_tools.ingest(source, out, schema=SCHEMA).rows == 9
    assert (out / "manifest.json").stat().st_mtime_ns == before
    assert files_in(out) == ["manifest.json", "shards-0/part-000-00000.arrow"]


KILL_POINTS = """
import json, os, shutil, signal, sys
import data_tools

begin, folder, source = sys.argv[1:4]
schema = data_tools.Schema("y", ("a",), ("p",))
options = {"schema": schema, "shard_bytes": 60, "threads": 1, **json.loads(sys.argv[4])}
CALLS = ("fsync", "link", "mkdir", "remove", "rename", "replace", "rmdir", "unlink")


def ingest(out):
    data_tools.ingest(source, out, **options)


def killed_ingest(out, left):
    def counted(function):
        def call(*arguments, **more):
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **more)
        return call

    for name in CALLS:
        setattr(os, name, counted(getattr(os, name)))
    ingest(out)


def in_a_process(function, *arguments):
    child = os.fork()
    if child == 0:
        try:
            function(*arguments)
            os._exit(0)
        except BaseException as error:
            print(repr(error), flush=True)
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


os.fsync = lambda file: None  # a killed process loses nothing that it has written
ingest(f"{folder}/0")  # so that kernels are loaded once
calls, status = 0, -signal.SIGKILL
while status == -signal.SIGKILL:
    calls += 1
    out = f"{folder}/{calls}"
    if os.path.isdir(begin):
        shutil.copytree(begin, out)
    status = in_a_process(killed_ingest, out, calls)
    there = set(os.listdir(out)) if os.path.isdir(out) else set()
    tidied = "manifest.json" in there and not there & {".ingest", ".ingest.finished"}
    if tidied and not options.get("overwrite"):
        continue  # all was done
    assert in_a_process(ingest, out) == 0, f"killed at call {calls}"
"""


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
@pytest.mark.parametrize("options", [{}, {"ids": "appearance"}, {"overwrite": True}])
def test_killed_at_any_call_the_same_ingest_ends_well(tmp_path, options):
    """Also within the last ones, when only what is no longer needed must go."""
    schema = data_tools.Schema("y", ("a",), ("p",))
    source = write(tmp_path / "log.tsv", make_lines(7, schema=schema))
    begin = tmp_path / "begin"
    if "overwrite" in options:
        old = write(tmp_path / "old.tsv", make_lines(3, schema=schema))
        data_tools.ingest(old, begin, schema=schema)
    ended = tmp_path / "ended"
    ended.mkdir()
    code = [sys.executable, "-c", KILL_POINTS, str(begin), str(ended), str(source)]
    done = subprocess.run([*code, json.dumps(options)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    folders = sorted(ended.iterdir(), key=lambda path: int(path.name))
    assert len(folders) > 30
    expected = shard_bytes(folders[0])
    assert len(expected) == 2
    for folder in folders:
        assert data_tools.verify(folder) == []
        assert shard_bytes(folder) == expected
        (shards,) = folder.glob("shards-*")
        left = {path.name for path in folder.iterdir()} - {".ingest.lock"}
        assert left == {"manifest.json", shards.name}, folder


FULL_DISK = """
import resource, signal, sys, data_tools
from tests.data_tools.ingestion.test_ingest import SCHEMA
source, out, limit = sys.argv[1:]
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that a write fails instead
resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
try:
    data_tools.ingest(source, out, schema=SCHEMA, shard_bytes=8000, threads=1)
except OSError as error:
    print(error.strerror, *error.__notes__)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of files")
def test_a_disk_that_takes_no_more_keeps_the_finished_shards(tmp_path):
    """Small shards, then larger ones that do not fit: leading zeros take no room in a shard."""
    short = [line.replace("\t", "\t" + "0" * 200, 1) for line in make_lines(72)]
    source = write(tmp_path / "log.tsv", [*short, *make_lines(500)])
    whole = data_tools.ingest(source, tmp_path / "whole", schema=SCHEMA, shard_bytes=8000)
    limit = (whole.shards[0].bytes + max(shard.bytes for shard in whole.shards)) // 2
    out = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(source), str(out), str(limit)],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "File too large" in done.stdout
    assert "are kept" in done.stdout
    kept = {path: path.stat().st_ino for path in out.glob("shards-0/*.arrow")}
    assert kept
    manifest = data_tools.ingest(source, out, schema=SCHEMA, shard_bytes=8000)
    assert manifest.rows == 572
    assert kept.items() <= {p: p.stat().st_ino for p in out.glob("shards-0/*")}.items()
    assert shard_bytes(out) == shard_bytes(tmp_path / "whole")


@pytest.mark.parametrize("name", ["log.tsv", "log.gz"])
@pytest.mark.parametrize("lost", [0, 3, -1])
def test_no_dataset_is_finished_while_a_shard_has_no_record(tmp_path, monkeypatch, name, lost):
    """As where a worker writes to a folder of the same name on another machine."""
    source = write(tmp_path / name, make_lines(60))
    out = tmp_path / "out"
    shards = expected_shards(source, tmp_path / "whole")
    wanted = sorted(shards)[lost]
    with monkeypatch.context() as patch:

        def save(folder, kind, record):
            if record.name != wanted:
                save_record(folder, kind, record)

        patch.setattr("data_tools.ingestion.worker.save_record", save)
        with pytest.raises(data_tools.DatasetError, match=r"log.*: shard \d+ .* has no record in"):
            data_tools.ingest(source, out, schema=SCHEMA, shard_bytes=SIZE)
    assert not (out / "manifest.json").exists()
    assert len(list((out / ".ingest/parts").iterdir())) == len(shards) - 1
    data_tools.ingest(source, out, schema=SCHEMA, shard_bytes=SIZE)
    assert shard_bytes(out) == shards


@pytest.mark.parametrize("harm", [Path.unlink, lambda path: os.truncate(path, 50)])
@pytest.mark.parametrize("options", [{}, {"ids": "appearance"}])
def test_a_finished_shard_whose_file_is_gone_is_made_again(tmp_path, harm, options):
    source = write(tmp_path / "log.tsv", [*make_lines(60), "0"])
    out = tmp_path / "out"
    shards = expected_shards(source, tmp_path / "whole", on_error="skip", **options)
    with pytest.raises(data_tools.ParseError):
        data_tools.ingest(source, out, schema=SCHEMA, shard_bytes=SIZE, **options)
    files = [*out.glob("shards-0/part-*"), *out.glob(".ingest/counts/*.arrow")]
    assert files
    for path in files[:3]:
        harm(path)
    data_tools.ingest(source, out, schema=SCHEMA, shard_bytes=SIZE, on_error="skip", **options)
    assert shard_bytes(out) == shards
    assert data_tools.verify(out) == []


def test_a_line_over_several_shards_of_a_gzipped_log(tmp_path):
    """No line begins in some shards, which have no file and are not missing."""
    lines = make_lines(9)
    lines[4] = lines[4].replace("\t", "\t" + "0" * 200, 1)
    source = write(tmp_path / "log.gz", lines)
    manifest = data_tools.ingest(source, tmp_path / "out", schema=SCHEMA, shard_bytes=70)
    assert manifest.rows == 9
    numbers = [int(shard.name[9:14]) for shard in manifest.shards]
    assert max(numbers) >= len(numbers)
