"""Paths that commands are given: what is wrong with one is said by name, before any work."""

import os
import shutil
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from robe_numba.cli.commands import demo
from robe_numba.training import RunFolder, TrainingConfig, train
from tests.support.commands import assert_refused

SMALL = ("--num-parameters", 3000, "--bottom", "8", "--top", "8")


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    config = TrainingConfig(num_parameters=3000, bottom=(8,), top=(8,), evaluations=1)
    return train(dataset, config, tmp_path_factory.mktemp("run") / "run").path


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Things that are no folders, by what is to be said of them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "broken").symlink_to("nowhere")
    (tmp_path / "linked").symlink_to("file")
    return {
        "missing": "missing does not exist",
        "file": "file is a file",
        "broken": "broken is a symbolic link to nowhere, which does not exist",
        "linked": "linked is a symbolic link to file, a file",
        "file/inner": "file is a file",
    }


@pytest.mark.parametrize("place", ["missing", "file", "broken", "linked", "file/inner"])
def test_what_is_no_run_or_dataset_is_said(dataset, run, places, robe, place):
    words, before = places[place], sorted(os.listdir())
    output = ("-o", "scores.parquet")
    for command in (
        ("evaluate", place, dataset.path),
        ("predict", place, dataset.path, *output),
        ("evaluate", run, place),
        ("predict", run, place, *output),
        ("train", place, "-o", "out", *SMALL),
        ("sweep", place, "-o", "out", "num_parameters=3000"),
        ("plan", "--data", place, "--compression", 10),
        ("data", "info", place),
        ("data", "verify", place),
    ):
        remedy = "--output of robe train" if place == str(command[1]) and command[0] in (
            "evaluate", "predict") else "robe ingest"  # fmt: skip
        assert_refused(robe(*command), f"{place} is not a folder", words, remedy)
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize("place", ["file", "broken", "linked", "file/inner"])
def test_what_is_in_the_way_of_a_folder_is_said(dataset, places, robe, place):
    words, before = places[place], sorted(os.listdir())
    for command in (
        ("train", dataset.path, "-o", place, *SMALL),
        ("train", dataset.path, "-o", place, *SMALL, "--overwrite"),
        ("train", dataset.path, "-o", place, *SMALL, "--resume"),
        ("sweep", dataset.path, "-o", place, "num_parameters=3000"),
        ("ingest", dataset.path.parent / "clicks.tsv", "-o", place, "--overwrite"),
        ("demo", "-o", place),
        ("ingest", "log.tsv", "-o", place),
    ):
        result = robe(*command)
        assert_refused(result, f"{place} cannot be a folder", words, "choose another output")
    assert sorted(os.listdir()) == before
    assert Path("file").read_text() == "mine"


@pytest.mark.parametrize("place", ["missing", "file", "broken", "linked", "file/inner"])
def test_the_folder_of_a_file_must_be_there(dataset, run, places, robe, place):
    words, before = places[place], sorted(os.listdir())
    for command in (
        ("predict", run, dataset.path, "-o", f"{place}/scores.parquet"),
        ("synth", f"{place}/log.tsv", "--rows", 10, "--overwrite"),
    ):
        assert_refused(robe(*command), f"{place} is not a folder", words, "make it first")
    assert sorted(os.listdir()) == before


def test_an_earlier_demo_is_removed_also_through_a_link(tmp_path):
    there = tmp_path / "elsewhere"
    (there / "data").mkdir(parents=True)
    for name in (".robe-demo", "clicks.tsv", "data/manifest.json"):
        (there / name).write_text("old")
    (tmp_path / "mine").write_text("mine")
    (there / "full").symlink_to(tmp_path / "mine")
    (tmp_path / "demo").symlink_to(there)
    demo._clear(tmp_path / "demo")
    assert os.listdir(there) == [".robe-demo"]
    assert (tmp_path / "demo").is_symlink()
    assert (tmp_path / "mine").read_text() == "mine"


@contextmanager
def as_nobody():
    """Without the rights of root, which the tests may run with."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        if before == 0:
            os.seteuid(before)


def read_all(folder):
    run = RunFolder(folder)
    run.metrics()
    run.load_model()


@pytest.fixture
def open_folder():
    """A folder that everybody may go through, as pytest's may not be."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@pytest.mark.skipif(sys.platform == "win32", reason="has other permissions")
@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "model.safetensors"])
def test_a_file_of_a_run_that_may_not_be_read_is_named(run, open_folder, name):
    folder = shutil.copytree(run, open_folder / "run")
    os.chmod(folder / name, 0)
    with as_nobody(), pytest.raises(PermissionError) as refusal:
        read_all(folder)
    assert f"{folder / name} cannot be read (Permission denied)" in str(refusal.value)
    assert "check its permissions" in str(refusal.value)


@pytest.mark.skipif(sys.platform == "win32", reason="has other permissions")
def test_a_folder_that_may_not_be_written_to_is_named(dataset, open_folder):
    (open_folder / "sealed").mkdir(mode=0o555)
    config = TrainingConfig(num_parameters=3000, bottom=(8,), top=(8,))
    with as_nobody(), pytest.raises(PermissionError, match="sealed is a folder that you may not"):
        train(dataset, config, open_folder / "sealed" / "run")
