"""Checkpoints that are damaged are refused with the reason, and the one before is used if asked."""

import json
import os
import shutil

import pytest
from safetensors.numpy import load_file

from robe_numba.training import CheckpointError, RunFolder, train
from robe_numba.training.run import checkpoints
from tests.training.runs import config, records, stopped, weights


def spoil(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def damage(kind, checkpoint):
    """Damage a checkpoint as disks, killed copies and people do; returns words of the refusal."""
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

    # Stopped again before the damaged one, which is then no longer the latest.
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
