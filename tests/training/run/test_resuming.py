"""Runs that are resumed: to the same bytes with the same settings, and with other settings."""

import json
import shutil

import pytest

import data_tools
from data_tools import Dataset
from data_tools.storage.checksums import digest
from data_tools.storage.locks import alone_in
from data_tools.synthetic.generator import Generator
from robe_numba.training import RunFolder, TrainingError, Watcher, train
from robe_numba.training.settings import LATER, RESUMABLE
from tests.training.runs import (
    Stop,
    as_earlier_version,
    config,
    edited,
    records,
    stopped,
    weights,
)


@pytest.mark.parametrize(
    "settings",
    [
        config("robe", optimizer="sgd", embedding_optimizer="adagrad", block_state=True),
        config("robe", warmup_steps=4, decay_start=6, clip_norm=0.5, evaluation_steps=3),
        config("full"),
        config("hashed", optimizer="sgd"),
        config("qr"),
        config("robe", interaction="dcn", cross_layers=2, cross_rank=3),
    ],
    ids=lambda settings: f"{settings.embedding}-{settings.interaction}-{settings.optimizer}",
)
def test_a_resumed_run_ends_as_if_it_had_never_stopped(dataset, tmp_path, settings):
    unstopped = train(dataset, settings, tmp_path / "unstopped")
    stopped(dataset, settings, tmp_path / "run", 5)
    run = stopped(dataset, settings, tmp_path / "run", 11, resume=True, threads=1)
    assert run.checkpoints.steps() == [11, 5]
    run = train(dataset, settings, tmp_path / "run", resume=True)
    assert weights(run) == weights(unstopped)
    assert records(run) == records(unstopped)
    assert not run.checkpoints.folder.exists()


def test_resuming_starts_a_run_and_leaves_a_finished_one(dataset, tmp_path):
    run = train(dataset, config(), tmp_path / "run", resume=True)
    before = weights(run), run.metrics()
    again = train(dataset, config(), tmp_path / "run", resume=True, watcher=Stop(1))
    assert (weights(again), again.metrics()) == before
    with pytest.raises(ValueError, match="is finished"):
        train(dataset, config(epochs=3), tmp_path / "run", resume=True)
    with pytest.raises(FileExistsError, match="--resume"):
        train(dataset, config(), tmp_path / "run")


def test_other_settings_and_other_data_are_refused(dataset, tmp_path, stopped_twice):
    with pytest.raises(ValueError, match=r"started with seed 0 \(given: 1\)"):
        train(dataset, config(seed=1), stopped_twice, resume=True)
    Generator(seed=6, scale=0.001).write(tmp_path / "other.tsv", 2500)
    data_tools.ingest(tmp_path / "other.tsv", tmp_path / "other")
    with pytest.raises(ValueError, match="another dataset"):
        train(Dataset(tmp_path / "other"), config(), stopped_twice, resume=True)


def test_a_loss_that_is_not_finite_stops_the_run_which_is_resumed_with_a_lower_rate(
    dataset, tmp_path
):
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

    # With checkpoints after every step, weights that are not finite are found at once.
    with pytest.raises(TrainingError, match=r"after step 10 .* not finite") as error:
        train(dataset, config(), folder, watcher=Poison(), overwrite=True, checkpoint_seconds=0)
    assert "continues from the checkpoint of step 9" in str(error.value)
    assert RunFolder(folder).checkpoints.steps() == [9, 8]

    run = train(dataset, config(lr=0.01, embedding_lr=0.005), folder, resume=True)
    (change,) = [record for record in run.metrics() if "changed" in record]
    assert change == {"step": 9, "changed": {"lr": 0.01, "embedding_lr": 0.005}}
    assert run.config["training"]["lr"] == 0.01
    assert run.finished


def test_the_best_weights_are_those_of_the_resumed_run(dataset, tmp_path):
    """Evaluations between the checkpoint and a kill are forgotten if settings change."""
    settings = config(evaluation_steps=2)
    run = stopped(dataset, settings, tmp_path / "run", 3)
    checkpoint = weights(run)
    copy = shutil.copytree(run.path, tmp_path / "copy")
    stopped(dataset, settings, run.path, 9, resume=True, checkpoint_seconds=None)
    assert weights(run) != checkpoint
    slow = config(evaluation_steps=2, lr=1e-9, embedding_lr=1e-9)
    resumed = train(dataset, slow, run.path, resume=True)
    assert weights(resumed) == weights(train(dataset, slow, copy, resume=True))


def test_changes_are_recorded_also_after_another_kill(dataset, tmp_path):
    stopped(dataset, config(), tmp_path / "run", 5)
    lower = config(lr=0.01)
    stopped(dataset, lower, tmp_path / "run", 7, resume=True, checkpoint_seconds=None)
    run = train(dataset, lower, tmp_path / "run", resume=True)
    changes = [record for record in run.metrics() if "changed" in record]
    assert changes == [{"step": 5, "changed": {"lr": 0.01, "embedding_lr": 0.01}}]


def test_a_run_may_end_earlier_than_it_was_started_for(dataset, tmp_path):
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


def test_a_run_of_an_earlier_version_without_newer_settings_is_resumed(dataset, tmp_path):
    stopped(dataset, config(), tmp_path / "run", 5)
    path = tmp_path / "run" / "config.json"
    older = json.loads(path.read_text())
    del older["training"]["patience"], older["training"]["block_state"]
    path.write_text(json.dumps(older))
    assert train(dataset, config(), tmp_path / "run", resume=True).finished


def test_a_run_from_before_there_was_a_choice_of_interaction_is_resumed(dataset, tmp_path):
    folder = tmp_path / "run"
    stopped(dataset, config(), folder, 5)
    as_earlier_version(folder)
    edited(folder / "config.json", lambda value: [value["training"].pop(name) for name in LATER])
    facts = json.loads((folder / "config.json").read_text())
    facts["training"] = {n: v for n, v in facts["training"].items() if n not in RESUMABLE}
    (state,) = folder.glob("checkpoints/*/state.json")
    about = json.loads(state.read_text().splitlines()[0])
    text = json.dumps(about | {"run": digest(json.dumps(facts, sort_keys=True).encode())})
    state.write_text(f"{text}\n{digest(text.encode())}\n")
    with pytest.raises(ValueError, match="started with interaction dot"):
        train(dataset, config(interaction="cat"), folder, resume=True)
    assert train(dataset, config(), folder, resume=True).finished
