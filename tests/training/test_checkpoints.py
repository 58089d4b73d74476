"""Runs that were killed, stopped or damaged go on to the same bytes, or say why they cannot."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
from safetensors import SafetensorError
from safetensors.numpy import load_file

import data_tools
from data_tools import Dataset
from data_tools.storage.locks import alone_in
from data_tools.synthetic.generator import Generator
from robe_numba.training import (
    CheckpointError,
    RunFolder,
    TrainingConfig,
    TrainingError,
    TrainingInterrupted,
    Watcher,
    train,
)
from robe_numba.training.run import checkpoints

FAST = {"lr": 0.02, "batch_size": 256, "evaluations": 2, "epochs": 2}  # 8 steps per epoch
SIZES = {"robe": {"compression": 20}, "full": {}, "hashed": {"compression": 20},
         "qr": {"compression": 2}}  # fmt: skip


def config(embedding="robe", **changes):
    return TrainingConfig(**{"embedding": embedding, **SIZES[embedding], **FAST, **changes})


class Stop(Watcher):
    """Presses Ctrl-C after a step."""

    def __init__(self, at):
        self.at = at

    def step(self, step, loss):
        if step == self.at:
            signal.raise_signal(signal.SIGINT)


def die_at_call(patch, calls, names):
    """Let these functions of `os` end the process as a kill would, after so many calls."""
    left = calls

    def counted(function):
        def call(*arguments, **options):
            nonlocal left
            if left == 0:
                raise SystemExit  # nothing of it is caught on the way
            left -= 1
            return function(*arguments, **options)

        return call

    for name in names:
        patch.setattr(os, name, counted(getattr(os, name)))


def stopped(dataset, settings, folder, at, **options):
    """A run that Ctrl-C ended after so many steps."""
    with pytest.raises(TrainingInterrupted):
        train(dataset, settings, folder, watcher=Stop(at), **options)
    return RunFolder(folder)


def weights(run):
    return (run.path / "model.safetensors").read_bytes()


def records(run):
    """metrics.jsonl without what the clock decides."""
    return [{k: v for k, v in r.items() if k != "seconds"} for r in run.metrics()]


CHILD = """
import os, signal, sys
from data_tools import Dataset
from robe_numba.training import TrainingConfig, Watcher, train
import json

left = int(sys.argv[4])  # calls until the end


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
    """Killed at changing places: before there is a run, within writing, between files and steps."""
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
    left = {path.name for path in run.path.iterdir() if not checkpoints_aside(path)}
    assert left == {"config.json", "metrics.jsonl", "model.safetensors"}


def checkpoints_aside(path):
    """Whether a killed process left this temporary file."""
    return path.name.startswith(".") and path.name.endswith(".tmp")


@pytest.mark.parametrize(
    "settings",
    [
        config("robe", optimizer="sgd", embedding_optimizer="adagrad", block_state=True),
        config("robe", warmup_steps=4, decay_start=6, clip_norm=0.5, evaluation_steps=3),
        config("full"),
        config("hashed", optimizer="sgd"),
        config("qr"),
    ],
    ids=lambda settings: f"{settings.embedding}-{settings.optimizer}",
)
def test_a_run_goes_on_as_if_it_had_never_stopped(dataset, tmp_path, settings):
    unstopped = train(dataset, settings, tmp_path / "unstopped")
    stopped(dataset, settings, tmp_path / "run", 5)
    run = stopped(dataset, settings, tmp_path / "run", 11, resume=True, threads=1)
    assert run.checkpoints.steps() == [11, 5]
    run = train(dataset, settings, tmp_path / "run", resume=True)
    assert weights(run) == weights(unstopped)
    assert records(run) == records(unstopped)
    assert not run.checkpoints.folder.exists()


def test_resuming_begins_a_run_and_leaves_a_finished_one(dataset, tmp_path):
    run = train(dataset, config(), tmp_path / "run", resume=True)
    before = weights(run), run.metrics()
    again = train(dataset, config(), tmp_path / "run", resume=True, watcher=Stop(1))
    assert (weights(again), again.metrics()) == before
    with pytest.raises(ValueError, match="is finished"):
        train(dataset, config(epochs=3), tmp_path / "run", resume=True)
    with pytest.raises(FileExistsError, match="--resume"):
        train(dataset, config(), tmp_path / "run")


def spoil(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def damage(kind, checkpoint):
    """Damage a checkpoint as disks, killed copies and people do; the words of the refusal."""
    state, arrays = checkpoint / "state.json", checkpoint / "state.safetensors"
    if kind.startswith("flip"):
        name, share = kind.split()[1:]
        path = checkpoint / name
        spoil(path, int(float(share) * (path.stat().st_size - 1)))
        return "damaged or cut off"
    if kind == "truncated":
        os.truncate(arrays, arrays.stat().st_size // 2)
        return "damaged or cut off"
    if kind == "empty":
        os.truncate(state, 0)
        return "damaged or cut off"
    if kind == "missing":
        arrays.unlink()
        return "cannot be read"
    text = state.read_text().splitlines()[0].replace(checkpoints.FORMAT, "robe checkpoint 9")
    state.write_text(f"{text}\n{checkpoints._digest(text.encode())}\n")
    return "robe checkpoint 9"


FLIPS = [f"flip {name} {share}" for name in ("state.json", "state.safetensors")
         for share in (0, 0.001, 0.3, 0.7, 0.999, 1)]  # fmt: skip


@pytest.fixture(scope="module")
def stopped_twice(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stopped") / "run"
    stopped(dataset, config(), folder, 5)
    return stopped(dataset, config(), folder, 11, resume=True).path


@pytest.mark.parametrize("kind", [*FLIPS, "truncated", "empty", "missing", "format"])
def test_a_damaged_checkpoint_is_refused_with_its_reason(dataset, tmp_path, stopped_twice, kind):
    run = RunFolder(shutil.copytree(stopped_twice, tmp_path / "run"))
    words = damage(kind, run.checkpoints.path(11))
    with pytest.raises(CheckpointError, match=words) as refusal:
        train(dataset, config(), run.path, resume=True)
    assert "--use-previous" in str(refusal.value)
    assert run.checkpoints.steps() == [11, 5]


def test_the_checkpoint_before_a_damaged_one_is_used_when_asked(dataset, tmp_path, stopped_twice):
    unstopped = train(dataset, config(), tmp_path / "unstopped")
    run = RunFolder(shutil.copytree(stopped_twice, tmp_path / "run"))
    damage("truncated", run.checkpoints.path(11))
    again = shutil.copytree(run.path, tmp_path / "again")
    run = train(dataset, config(), run.path, resume=True, use_previous=True)
    assert weights(run) == weights(unstopped)
    assert records(run) == records(unstopped)

    # Stopped again before the damaged one: that is not the latest any more.
    run = stopped(dataset, config(), again, 8, resume=True, use_previous=True)
    assert run.checkpoints.steps() == [8, 5]
    assert weights(train(dataset, config(), again, resume=True)) == weights(unstopped)

    run = RunFolder(shutil.copytree(stopped_twice, tmp_path / "both"))
    for step in run.checkpoints.steps():
        damage("truncated", run.checkpoints.path(step))
    with pytest.raises(CheckpointError, match="there is none before it"):
        train(dataset, config(), run.path, resume=True, use_previous=True)


def test_the_checkpoint_of_another_run_is_refused(dataset, tmp_path, stopped_twice):
    other = stopped(dataset, config(seed=1), tmp_path / "other", 12)
    run = RunFolder(shutil.copytree(stopped_twice, tmp_path / "run"))
    shutil.copytree(other.checkpoints.path(12), run.checkpoints.path(12))
    with pytest.raises(CheckpointError, match="other settings or other data"):
        train(dataset, config(), run.path, resume=True)


def test_other_settings_and_other_data_are_refused(dataset, tmp_path, stopped_twice):
    with pytest.raises(ValueError, match=r"started with seed 0 \(given: 1\)"):
        train(dataset, config(seed=1), stopped_twice, resume=True)
    Generator(seed=6, scale=0.001).write(tmp_path / "other.tsv", 2500)
    data_tools.ingest(tmp_path / "other.tsv", tmp_path / "other")
    with pytest.raises(ValueError, match="another dataset"):
        train(Dataset(tmp_path / "other"), config(), stopped_twice, resume=True)


def test_nothing_in_a_checkpoint_is_pickled(dataset, stopped_twice):
    for step in (5, 11):
        folder = RunFolder(stopped_twice).checkpoints.path(step)
        names = {"state.json", "state.safetensors", "best.safetensors"}
        assert {p.name for p in folder.iterdir()} == names
        text, digest = (folder / "state.json").read_text().splitlines()
        assert json.loads(text)["step"] == step
        arrays = load_file(folder / "state.safetensors")
        assert "embedding.array.state_sum" in arrays
        assert "bottom.0.weight.state_sum" in arrays
        assert len(digest) == 128


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


def test_a_loss_that_is_no_number_stops_there_and_the_run_goes_on_with_less(dataset, tmp_path):
    class Poison(Watcher):
        def begin(self, model, steps, done):
            self.model = model

        def step(self, step, loss):
            if step == 10:  # within the second epoch
                self.model.parameters()["top.0.bias"][:] = float("nan")

    folder = tmp_path / "run"
    with pytest.raises(TrainingError) as error:
        train(dataset, config(), folder, watcher=Poison(), checkpoint_seconds=None)
    assert "the loss of step 11 is nan, at batch 2 of epoch 1 (counted from 0)" in str(error.value)
    assert "--overwrite starts again" in str(error.value)

    # With checkpoints after every step, weights that are no numbers are found at once.
    with pytest.raises(TrainingError, match=r"after step 10 .* not finite") as error:
        train(dataset, config(), folder, watcher=Poison(), overwrite=True, checkpoint_seconds=0)
    assert "continues from the checkpoint of step 9" in str(error.value)
    assert RunFolder(folder).checkpoints.steps() == [9, 8]

    run = train(dataset, config(lr=0.01, embedding_lr=0.005), folder, resume=True)
    (change,) = [record for record in run.metrics() if "changed" in record]
    assert change == {"step": 9, "changed": {"lr": 0.01, "embedding_lr": 0.005}}
    assert run.config["training"]["lr"] == 0.01
    assert run.finished


def test_the_best_weights_are_those_of_the_run_that_goes_on(dataset, tmp_path):
    """Evaluations between the checkpoint and a kill are of no run that goes on otherwise."""
    settings = config(evaluation_steps=2)
    run = stopped(dataset, settings, tmp_path / "run", 3)
    checkpoint = weights(run)
    copy = shutil.copytree(run.path, tmp_path / "copy")
    stopped(dataset, settings, run.path, 9, resume=True, checkpoint_seconds=None)
    assert weights(run) != checkpoint
    slow = config(evaluation_steps=2, lr=1e-9, embedding_lr=1e-9)
    gone_on = train(dataset, slow, run.path, resume=True)
    assert weights(gone_on) == weights(train(dataset, slow, copy, resume=True))


def test_what_was_changed_is_told_also_after_another_kill(dataset, tmp_path):
    stopped(dataset, config(), tmp_path / "run", 5)
    lower = config(lr=0.01)
    stopped(dataset, lower, tmp_path / "run", 7, resume=True, checkpoint_seconds=None)
    run = train(dataset, lower, tmp_path / "run", resume=True)
    changes = [record for record in run.metrics() if "changed" in record]
    assert changes == [{"step": 5, "changed": {"lr": 0.01, "embedding_lr": 0.01}}]


def test_a_run_may_end_earlier_than_it_was_begun_for(dataset, tmp_path):
    settings = config(evaluation_steps=1000, epochs=4)
    stopped(dataset, settings, tmp_path / "run", 20)
    shorter = config(evaluation_steps=1000, epochs=2)
    run = train(dataset, shorter, tmp_path / "run", resume=True)
    assert [r["step"] for r in run.metrics() if "validation" in r] == [20]
    assert run.finished


def test_a_record_that_was_cut_off_is_written_again(dataset, tmp_path, stopped_twice):
    run = RunFolder(shutil.copytree(stopped_twice, tmp_path / "run"))
    path = run.path / "metrics.jsonl"
    path.write_text(path.read_text()[:-40])
    assert len(run.metrics()) == 1
    unstopped = train(dataset, config(), tmp_path / "unstopped")
    assert records(train(dataset, config(), run.path, resume=True)) == records(unstopped)
    path.write_text("{}x\n{}\n")
    with pytest.raises(ValueError, match=r"metrics\.jsonl is damaged"):
        run.metrics()


def test_a_folder_is_trained_by_one_process(dataset, tmp_path, stopped_twice):
    run = RunFolder(shutil.copytree(stopped_twice, tmp_path / "run"))
    with alone_in(run.path), pytest.raises(BlockingIOError, match="another process"):
        train(dataset, config(), run.path, resume=True)
    assert run.checkpoints.steps() == [11, 5]
    assert train(dataset, config(), run.path, resume=True).finished


def test_settings_of_a_later_version_do_not_keep_a_run_from_going_on(dataset, tmp_path):
    stopped(dataset, config(), tmp_path / "run", 5)
    path = tmp_path / "run" / "config.json"
    older = json.loads(path.read_text())
    del older["training"]["patience"], older["training"]["block_state"]
    path.write_text(json.dumps(older))
    assert train(dataset, config(), tmp_path / "run", resume=True).finished


@pytest.mark.parametrize("finished", [True, False])
def test_overwriting_may_be_interrupted_anywhere(dataset, tmp_path, monkeypatch, finished):
    """Killed between any two steps of it, the run that is resumed is the new one or refused."""
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
            if calls == 0:  # nothing of the old run is gone: it goes on as was asked
                assert {"step": 11, "changed": {"lr": 0.05, "embedding_lr": 0.05}} in run.metrics()
                continue
        assert weights(run) == weights(expected)
        assert records(run) == records(expected)
    assert [calls for calls, _ in refusals] == ([0] if finished else [])
    assert all("is finished and cannot be resumed" in text for _, text in refusals)
