"""What ends a run on all ranks, and arguments that all ranks refuse."""

import os
import re
from dataclasses import replace

import numpy as np
import pytest

import data_tools
from data_tools import Dataset
from robe_numba.training import RunFolder, TrainingError, Watcher, train, training_run
from tests.mpi.runs import CONFIG


class Flip(Watcher):
    """Changes one bit of an array after a step."""

    def __init__(self, at, name):
        self.at, self.name = at, name

    def begin(self, model, steps, done):
        self.arrays = model.parameters() | model.state()

    def step(self, step, loss):
        if step == self.at:
            self.arrays[self.name].reshape(-1).view(np.uint32)[-1] ^= 1 << 20


@pytest.mark.parametrize(
    ("size", "name", "step", "changed"),
    [
        (3, "embedding.array", 6, 0),
        (3, "embedding.array.state_sum", 8, 2),
        (2, "top.0.weight", 5, 0),
    ],
)
def test_a_changed_bit_ends_the_run_on_all_ranks_with_its_place(
    group, groups, dataset, folder, size, name, step, changed
):
    """The majority is taken to be right; of two ranks, the first."""
    named = changed if size > 2 else 1
    processes, message = group.all_gather(os.getpid()), None
    if size in groups:
        watcher = Flip(step, name) if group.rank == changed else None
        with pytest.raises(
            TrainingError, match=r"after step 8 .* no longer have the same"
        ) as error:
            train(dataset, CONFIG, folder / "run", group=groups[size], watcher=watcher)
        message = str(error.value)
        found = re.findall(r"rank (\d+) \(process (\d+) on [^)]*\): ([\w., ]+)\. ", message)
        assert found == [(str(named), str(processes[named]), name)]
    messages = group.all_gather(message)
    assert set(messages[:size]) == {messages[0]}
    if group.is_root:
        assert [r["step"] for r in RunFolder(folder / "run").metrics()] == [4]


@pytest.fixture(scope="session")
def other_dataset(group, shared_folder):
    """The same rows in other shards."""
    path = shared_folder / "other"
    group.at_root(lambda: data_tools.ingest(shared_folder / "clicks.tsv", path))
    return Dataset(path)


@pytest.mark.parametrize("what", ["dataset", "settings", "versions"])
def test_ranks_that_were_asked_for_another_thing_are_named(
    group, dataset, other_dataset, folder, monkeypatch, what
):
    odd = 1
    data, config = dataset, CONFIG
    if group.rank == odd and what == "dataset":
        data = other_dataset
    if group.rank == odd and what == "settings":
        config = replace(CONFIG, lr=0.03)
    if group.rank == odd and what == "versions":
        monkeypatch.setattr(training_run, "__version__", "0.0")
    with pytest.raises(ValueError, match="must have the same versions") as error:
        train(data, config, folder / "run", group=group)
    pid = group.all_gather(os.getpid())[odd]
    assert re.findall(r"rank (\d+) \(process (\d+) on [^)]*\): (\w+)", str(error.value)) == [
        (str(odd), str(pid), what)
    ]
    assert not (folder / "run").exists()


def test_a_loss_that_is_no_number_ends_all_ranks_and_names_the_batch(
    group, dataset, folder, monkeypatch
):
    """Only the last rank has bad weights."""

    class Poison(Watcher):
        def begin(self, model, steps, done):
            self.model = model

        def step(self, step, loss):
            if step == 5:
                self.model.parameters()["top.1.bias"][:] = np.nan

    watcher = Poison() if group.rank == group.size - 1 else None
    with pytest.raises(TrainingError, match=r"the loss of step 6 is nan, at batch 5 of epoch 0"):
        train(dataset, CONFIG, folder / "run", group=group, watcher=watcher)


def test_what_stands_in_the_output_is_left_alone_by_all(group, dataset, folder):
    group.at_root(lambda: (folder / "thesis.txt").write_text("mine"))
    with pytest.raises(FileExistsError, match="is not a run"):
        train(dataset, CONFIG, folder, group=group, overwrite=True)
    assert os.listdir(folder) == ["thesis.txt"]


def test_a_batch_of_fewer_rows_than_ranks_is_refused(group, dataset, folder):
    config = replace(CONFIG, batch_size=group.size - 1)
    with pytest.raises(ValueError, match="give each at least one row, or start fewer"):
        train(dataset, config, folder / "run", group=group)
