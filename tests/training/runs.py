"""Small runs, ways to stop and edit them, and what they leave."""

import json
import os
import signal

import pytest

from robe_numba.training import RunFolder, TrainingConfig, TrainingInterrupted, Watcher, train

# 8 steps per epoch
FAST = {"lr": 0.02, "batch_size": 256, "evaluations": 2, "epochs": 2, "bottom": (32,), "top": (32,)}
SIZES = {"robe": {"compression": 20}, "full": {}, "hashed": {"compression": 20},
         "qr": {"compression": 2}}  # fmt: skip


def config(embedding="robe", **changes):
    return TrainingConfig(**{"embedding": embedding, **SIZES[embedding], **FAST, **changes})


def small_config(embedding="robe", **changes):
    """Of one epoch and the smallest layers."""
    return config(embedding, **{"epochs": 1, "bottom": (8,), "top": (8,), **changes})


class Stop(Watcher):
    """Presses Ctrl-C after a step."""

    def __init__(self, at):
        self.at = at

    def step(self, step, loss):
        if step == self.at:
            signal.raise_signal(signal.SIGINT)


def die_at_call(patch, calls, names):
    """Make these functions of `os` end the process as a kill would, after a number of calls."""
    left = calls

    def counted(function):
        def call(*arguments, **options):
            nonlocal left
            if left == 0:
                raise SystemExit  # nothing catches it
            left -= 1
            return function(*arguments, **options)

        return call

    for name in names:
        patch.setattr(os, name, counted(getattr(os, name)))


def stopped(dataset, settings, folder, at, **options):
    """A run that Ctrl-C ended after step `at`."""
    with pytest.raises(TrainingInterrupted):
        train(dataset, settings, folder, watcher=Stop(at), **options)
    return RunFolder(folder)


def weights(run):
    return (run.path / "model.safetensors").read_bytes()


def records(run):
    """metrics.jsonl without times."""
    return [{k: v for k, v in r.items() if k != "seconds"} for r in run.metrics()]


def edited(path, change):
    """Change the JSON of a file."""
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def as_earlier_version(folder):
    """Make a run one of the versions that kept no digests."""

    def change(value):
        value["format"] = "robe run 1"
        del value["digests"]

    edited(folder / "config.json", change)
    return RunFolder(folder)
