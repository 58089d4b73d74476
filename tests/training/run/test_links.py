"""Symbolic links in the folders of runs and sweeps are never followed."""

import os
import shutil

import pytest

from robe_numba.training import train
from tests.support.commands import assert_refused
from tests.training.runs import small_config, weights

LINKS = ["metrics.jsonl", "model.safetensors", "report.html", "checkpoints", "mlperf.log",
         "tensorboard", "config.json"]  # fmt: skip


@pytest.mark.parametrize("name", LINKS)
def test_a_link_among_the_files_of_a_run_is_refused(dataset, unfinished, tmp_path, robe, name):
    folder = shutil.copytree(unfinished, tmp_path / "run")
    target = tmp_path / "elsewhere"
    target.mkdir()
    there = folder / name
    if there.is_dir() or there.exists():
        shutil.move(there, target / name)
    elif name == "tensorboard":
        (target / name).mkdir()
    else:
        (target / name).write_text("mine\n")
    there.symlink_to(target / name)

    def contents():
        return {path: path.read_bytes() for path in target.rglob("*") if path.is_file()}

    before = contents()
    for options in (("--resume",), ("--overwrite", "--compression", "20")):
        result = robe("train", dataset.path, "-o", folder, "--log", "mlperf", *options)
        assert_refused(result, there, "is a symbolic link", "remove the link")
    assert contents() == before
    assert there.is_symlink()


def test_the_folder_of_a_run_may_be_a_link(dataset, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "elsewhere")
    run = train(dataset, small_config(), tmp_path / "run")
    assert weights(run) == weights(train(dataset, small_config(), tmp_path / "run", overwrite=True))
    assert (tmp_path / "elsewhere" / "model.safetensors").is_file()


def test_a_link_under_a_temporary_name_is_not_followed(dataset, tmp_path):
    (tmp_path / "mine").write_text("mine")
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("config.json", "metrics.jsonl", "model.safetensors"):
        (folder / f".{name}.{os.getpid()}.tmp").symlink_to(tmp_path / "mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "kept").write_text("mine")
    (folder / ".checkpoints.tmp").symlink_to(tmp_path / "folder")
    train(dataset, small_config(), folder)
    assert (tmp_path / "mine").read_text() == "mine"
    assert (tmp_path / "folder" / "kept").read_text() == "mine"


@pytest.mark.parametrize("name", ["runs", "table.md", "results.json", "report.html", "memory.png"])
def test_a_link_among_the_files_of_a_sweep_is_refused(dataset, tmp_path, robe, name):
    output, target = tmp_path / "sweep", tmp_path / "mine"
    (output / "runs").mkdir(parents=True)
    if name == "runs":
        (output / "runs").rename(target)
    else:
        target.write_text("mine")
    (output / name).symlink_to(target)
    result = robe("sweep", dataset.path, "num_parameters=3000", "-o", output)
    assert_refused(result, output / name, "is a symbolic link")
    assert list(target.iterdir()) == [] if name == "runs" else target.read_text() == "mine"
