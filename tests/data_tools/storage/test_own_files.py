"""Folders of somebody else's making: neither a link nor a name in a file leads us out of them."""

import json
import os
import shutil

import pytest

import data_tools
from data_tools.storage.locks import alone_in
from data_tools.synthetic.generator import Generator
from tests.data_tools.ingestion.test_ingest import SCHEMA, make_lines, shard_bytes, write

OPTIONS = {"schema": SCHEMA, "shard_bytes": 300, "threads": 1}


@pytest.fixture
def victim(tmp_path):
    """A folder elsewhere that must stay as it is."""
    folder = tmp_path / "victim"
    (folder / "inner").mkdir(parents=True)
    (folder / "thesis.txt").write_text("years of work")
    yield folder
    assert sorted(path.name for path in folder.rglob("*")) == ["inner", "thesis.txt"]
    assert (folder / "thesis.txt").read_text() == "years of work"


@pytest.fixture
def source(tmp_path):
    return write(tmp_path / "log.tsv", make_lines(60))


def unfinished(tmp_path, **options):
    """The output of an ingest that a bad line stopped, and its source."""
    bad = write(tmp_path / "bad.tsv", [*make_lines(60), "0"])
    with pytest.raises(data_tools.ParseError):
        data_tools.ingest(bad, tmp_path / "out", **OPTIONS, **options)
    return tmp_path / "out", bad


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("key", ["folder", "replaces"])
@pytest.mark.parametrize("name", ["../victim", "{}/victim", "shards-0/../../victim", ".", ""])
@pytest.mark.parametrize("same", [True, False])
def test_an_unfinished_ingest_cannot_name_another_folder(tmp_path, victim, key, name, same):
    out, bad = unfinished(tmp_path)
    edit(out / ".ingest/plan.json", **{key: name.format(tmp_path)})
    options = OPTIONS | {"on_error": "skip"} | ({} if same else {"dense_transform": "none"})
    with pytest.raises(data_tools.DatasetError, match=r"plan.json is not valid .*--overwrite"):
        data_tools.ingest(bad, out, **options)
    assert data_tools.ingest(bad, out, overwrite=True, **options).rows == 60
    assert data_tools.verify(out) == []


@pytest.mark.parametrize("name", ["../../victim/thesis.txt", "part-000-00001.arrow", "", "mine"])
def test_a_record_cannot_name_another_file(tmp_path, victim, name):
    """The shard is made again."""
    out, bad = unfinished(tmp_path)
    edit(out / ".ingest/parts/000-00000.json", name=name)
    data_tools.ingest(bad, out, on_error="skip", **OPTIONS)
    data_tools.ingest(bad, tmp_path / "whole", on_error="skip", **OPTIONS)
    assert shard_bytes(out) == shard_bytes(tmp_path / "whole")
    assert data_tools.verify(out) == []


@pytest.mark.parametrize("file_format", ["arrow", "parquet"])
@pytest.mark.parametrize("rows", [10**12, -1, 1])
def test_a_record_cannot_count_other_rows_than_the_file_has(tmp_path, file_format, rows):
    """Nor name another format, or another size: the shard is made again at once."""
    out, bad = unfinished(tmp_path, file_format=file_format)
    path = out / ".ingest/parts/000-00000.json"
    record = json.loads(path.read_text())
    other = {"arrow": "parquet", "parquet": "arrow"}[file_format]
    for changes in (
        {"rows": record["rows"] + rows, "lines": record["lines"] + rows},
        {"bytes": record["bytes"] + 1},
        {"name": f"part-000-00000.{other}"},
    ):
        edit(path, **(record | changes))
        shutil.copytree(out, tmp_path / "copy")
        options = OPTIONS | {"on_error": "skip", "file_format": file_format}
        assert data_tools.ingest(bad, tmp_path / "copy", **options).rows == 60
        assert data_tools.verify(tmp_path / "copy") == []
        shutil.rmtree(tmp_path / "copy")


def test_records_that_nobody_planned_count_nothing(tmp_path):
    out, bad = unfinished(tmp_path)
    records = out / ".ingest/parts"
    record = json.loads((records / "000-00000.json").read_text())
    for source, number in ((0, 99999), (7, 0)):
        name = f"part-{source:03d}-{number:05d}.arrow"
        (out / "shards-0" / name).write_bytes((out / "shards-0/part-000-00000.arrow").read_bytes())
        text = json.dumps(record | {"name": name, "source": source, "number": number})
        (records / f"{source:03d}-{number:05d}.json").write_text(text)
    (records / "notes.json").write_text("mine")
    assert data_tools.ingest(bad, out, on_error="skip", **OPTIONS).rows == 60


@pytest.mark.parametrize("name", [".ingest", ".ingest.lock"])
@pytest.mark.parametrize("target", ["victim/inner", "victim/thesis.txt", "victim/absent"])
def test_an_ingest_writes_through_no_link(tmp_path, victim, source, name, target):
    out = tmp_path / "out"
    out.mkdir()
    (out / name).symlink_to(tmp_path / target)
    for overwrite in (False, True):
        with pytest.raises(OSError, match=rf"{name} is a symbolic link .*remove the link"):
            data_tools.ingest(source, out, overwrite=overwrite, **OPTIONS)
    (out / name).unlink()
    assert data_tools.ingest(source, out, **OPTIONS).rows == 60
    assert data_tools.verify(out) == []


@pytest.mark.parametrize("target", ["victim/inner", "victim/thesis.txt", "victim/absent"])
def test_a_link_with_the_name_of_shards_stays(tmp_path, victim, source, target):
    out = tmp_path / "out"
    out.mkdir()
    (out / "shards-0").symlink_to(tmp_path / target)
    assert data_tools.ingest(source, out, **OPTIONS).folder == "shards-1"
    assert data_tools.verify(out) == []
    assert (out / "shards-0").is_symlink()


@pytest.mark.parametrize(
    ("name", "ids"),
    [(".ingest/parts", "raw"), (".ingest/counts", "appearance"), ("shards-0", "raw")],
)
def test_an_ingest_that_goes_on_writes_through_no_link(tmp_path, victim, name, ids):
    out, bad = unfinished(tmp_path, ids=ids)
    (out / name).rename(tmp_path / "aside")
    (out / name).symlink_to(victim / "inner")
    with pytest.raises(OSError, match=rf"{name} is a symbolic link"):
        data_tools.ingest(bad, out, on_error="skip", ids=ids, **OPTIONS)


def test_links_that_stand_for_old_files_are_replaced_and_not_followed(tmp_path, victim, source):
    out = tmp_path / "out"
    data_tools.ingest(source, out, **OPTIONS)
    for name in ("manifest.json", "shards-0"):
        (out / name).rename(tmp_path / name)
        (out / name).symlink_to(tmp_path / name)
    moved = sorted((tmp_path / "shards-0").iterdir())
    assert data_tools.Dataset(out).num_rows == 60  # reading does follow them
    data_tools.ingest(source, out, overwrite=True, **OPTIONS)
    assert data_tools.verify(out) == []
    assert sorted((tmp_path / "shards-0").iterdir()) == moved
    assert json.loads((tmp_path / "manifest.json").read_text())["folder"] == "shards-0"


def test_the_folder_that_a_person_names_may_be_a_link(tmp_path, source):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    data_tools.ingest(source, tmp_path / "out", **OPTIONS)
    data_tools.ingest(source, tmp_path / "out", overwrite=True, **OPTIONS)
    assert data_tools.verify(tmp_path / "disk") == []


@pytest.mark.parametrize("target", ["victim/thesis.txt", "victim/absent"])
def test_the_lock_of_a_run_is_no_link(tmp_path, victim, target):
    run = tmp_path / "run"
    run.mkdir()
    (run / ".lock.tmp").symlink_to(tmp_path / target)
    with pytest.raises(OSError, match=r"\.lock\.tmp is a symbolic link"), alone_in(run):
        pass


def test_a_generated_log_is_written_through_no_link(tmp_path, victim):
    (tmp_path / "log.tsv").symlink_to(victim / "thesis.txt")
    Generator(scale=0.001).write(tmp_path / "log.tsv", 10)
    assert not (tmp_path / "log.tsv").is_symlink()


def test_a_file_with_the_name_of_a_lock_keeps_its_content_while_it_is_held(tmp_path):
    (tmp_path / ".lock.tmp").write_text("mine")
    os.link(tmp_path / ".lock.tmp", tmp_path / "mine")
    with alone_in(tmp_path):
        with pytest.raises(BlockingIOError, match="another process"), alone_in(tmp_path):
            pass
        assert (tmp_path / ".lock.tmp").exists()
    assert (tmp_path / "mine").read_text() == "mine"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
def test_a_pipe_or_folder_with_the_name_of_a_lock_is_not_waited_for(tmp_path, source):
    out = tmp_path / "out"
    out.mkdir()
    os.mkfifo(out / ".ingest.lock")
    with pytest.raises(OSError, match=r"\.ingest\.lock is a pipe or a device .*; move it away"):
        data_tools.ingest(source, out, **OPTIONS)
    os.mkfifo(out / ".lock.tmp")
    with pytest.raises(OSError, match=r"\.lock\.tmp is a pipe"), alone_in(out):
        pass
    (out / ".ingest.lock").unlink()
    (out / ".ingest.lock").mkdir()
    with pytest.raises(OSError, match=r"\.ingest\.lock is a folder .*; move it away"):
        data_tools.ingest(source, out, **OPTIONS)
