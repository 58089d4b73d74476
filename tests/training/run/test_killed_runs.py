"""Runs that are killed at any moment are resumed to the same bytes, or refused."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
from safetensors import SafetensorError

from robe_numba.training import RunFolder, train
from robe_numba.training.run import checkpoints
from tests.training.runs import config, die_at_call, records, stopped, weights

CHILD = """
import os, signal, sys
from data_tools import Dataset
from robe_numba.training import TrainingConfig, Watcher, train
import json

left = int(sys.argv[4])  # calls until the kill


def count(*_):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)


def counted(function):
    def call(*arguments, **options):
        count()
        result = function(*arguments, **options)
        count()
        return result
    return call


for name in ("rename", "replace", "fsync", "mkdir", "unlink"):
    setattr(os, name, counted(getattr(os, name)))
watcher = Watcher()
watcher.step = count
watcher.evaluating = count
train(Dataset(sys.argv[1]), TrainingConfig.from_dict(json.loads(sys.argv[2])), sys.argv[3],
      threads=1, watcher=watcher, resume=True, checkpoint_seconds=0)
"""


def test_a_run_killed_again_and_again_ends_with_the_same_bytes(dataset, tmp_path):
    """Killed before there is a run, while a file is written, and between files and steps."""
    settings = config()
    unstopped = train(dataset, settings, tmp_path / "unstopped")
    arguments = [str(dataset.path), json.dumps(settings.to_dict()), str(tmp_path / "killed")]
    kills, calls = 0, iter([2, 29, 47, 90, 10**6])
    while True:
        command = [sys.executable, "-c", CHILD, *arguments, str(next(calls))]
        child = subprocess.run(command, check=False, capture_output=True, text=True)
        if child.returncode == 0:
            break
        assert child.returncode == -signal.SIGKILL, child.stderr
        kills += 1
    assert kills == 4
    run = RunFolder(tmp_path / "killed")
    assert weights(run) == weights(unstopped)
    assert records(run) == records(unstopped)
    left = {path.name for path in run.path.iterdir() if not is_temporary(path)}
    assert left == {"config.json", "metrics.jsonl", "model.safetensors"}


def is_temporary(path):
    """Whether a killed process left this temporary file."""
    return path.name.startswith(".") and path.name.endswith(".tmp")


@pytest.mark.parametrize("name", ["rename", "save_file"])
def test_a_full_disk_leaves_the_checkpoint_before(dataset, tmp_path, monkeypatch, name):
    def full(*_):
        raise OSError(28, "No space left on device") if name == "rename" else SafetensorError("28")

    run = stopped(dataset, config(), tmp_path / "run", 5)
    with monkeypatch.context() as patch:
        patch.setattr(os if name == "rename" else checkpoints, name, full)
        with pytest.raises(OSError, match=r"No space|could not be written"):
            train(dataset, config(), run.path, resume=True, checkpoint_seconds=0)
    assert [path.name for path in run.checkpoints.folder.iterdir()] == ["step-000000000005"]
    unstopped = train(dataset, config(), tmp_path / "unstopped")
    assert weights(train(dataset, config(), run.path, resume=True)) == weights(unstopped)


@pytest.mark.parametrize("finished", [True, False])
def test_overwriting_may_be_interrupted_anywhere(dataset, tmp_path, monkeypatch, finished):
    """Killed between any two changes, the run that is resumed is the new one or refused."""
    new = config(lr=0.05)
    expected = train(dataset, new, tmp_path / "expected")
    if finished:
        old = train(dataset, config(), tmp_path / "old").path
    else:
        old = stopped(dataset, config(), tmp_path / "old", 11).path
    refusals = []
    for calls in range(20):
        folder = shutil.copytree(old, tmp_path / f"{finished}-{calls}")
        with monkeypatch.context() as patch:
            die_at_call(patch, calls, ("rename", "unlink", "replace"))
            try:
                run = train(dataset, new, folder, overwrite=True)
            except SystemExit:
                run = None
        if run is None:
            try:
                run = train(dataset, new, folder, resume=True)
            except ValueError as error:
                refusals.append((calls, str(error)))
                continue
            if calls == 0:  # nothing of the old run is gone: it is resumed as asked
                assert {"step": 11, "changed": {"lr": 0.05, "embedding_lr": 0.05}} in run.metrics()
                continue
        assert weights(run) == weights(expected)
        assert records(run) == records(expected)
    assert [calls for calls, _ in refusals] == ([0] if finished else [])
    assert all("is finished and cannot be resumed" in text for _, text in refusals)
