"""Logs of a run that other tools read."""

import json
import re

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from robe_numba.training import TrainingConfig, TrainingError, Watcher, Watchers, train
from robe_numba.training.watchers.mlperf import MLPerfLog
from robe_numba.training.watchers.tensorboard import TensorBoardLog

SETTINGS = TrainingConfig(
    num_parameters=3000, lr=0.02, batch_size=20, evaluations=2, epochs=2, warmup_steps=3,
    decay_start=50,
).resolved()  # fmt: skip


def mlperf_events(path):
    lines = path.read_text().splitlines()
    assert all(re.match(r":::MLLOG \{.*\}$", line) for line in lines)
    return [json.loads(line.removeprefix(":::MLLOG ")) for line in lines]


def test_an_mlperf_log_tells_the_run_in_order(dataset, tmp_path):
    log = MLPerfLog(tmp_path / "run", SETTINGS, 2000, 250)
    run = train(dataset, SETTINGS, tmp_path / "run", watcher=log)
    events = mlperf_events(run.path / "mlperf.log")
    assert [e["time_ms"] for e in events] == sorted(e["time_ms"] for e in events)
    intervals = [e["key"] for e in events if e["event_type"] != "POINT_IN_TIME"]
    evaluation = ["eval_start", "eval_stop"]
    epoch = ["epoch_start", *evaluation, *evaluation, "epoch_stop"]
    assert intervals == ["init_start", "init_stop", "run_start", *epoch, *epoch, "run_stop"]
    values = {e["key"]: e["value"] for e in events if e["event_type"] == "POINT_IN_TIME"}
    assert values["global_batch_size"] == 20
    assert (values["train_samples"], values["eval_samples"]) == (2000, 250)
    assert values["opt_learning_rate_warmup_steps"] == 3
    assert values["lr_decay_start_steps"] == 50
    assert values["sgd_opt_learning_rate_decay_steps"] == 200 - 50
    accuracies = [(e["metadata"]["epoch_num"], e["value"]) for e in events
                  if e["key"] == "eval_accuracy"]  # fmt: skip
    expected = [(r["epoch"], r["validation"]["auc"]) for r in run.metrics() if "validation" in r]
    assert accuracies == expected
    assert events[-1]["metadata"]["status"] == "success"


def test_an_mlperf_log_of_a_failed_run_ends_with_its_failure(dataset, tmp_path):
    wild = TrainingConfig(num_parameters=3000, optimizer="sgd", lr=1e9).resolved()
    log = MLPerfLog(tmp_path / "run", wild, 2000, 250)
    with pytest.raises(TrainingError):
        train(dataset, wild, tmp_path / "run", watcher=log)
    last = mlperf_events(tmp_path / "run" / "mlperf.log")[-1]
    assert (last["key"], last["metadata"]["status"]) == ("run_stop", "aborted")


def test_tensorboard_reads_the_metrics(dataset, tmp_path):
    class Losses(Watcher):
        def __init__(self):
            self.losses = {}

        def step(self, step, loss):
            self.losses[step] = loss

    losses = Losses()
    watcher = Watchers([losses, TensorBoardLog(tmp_path / "run")])
    run = train(dataset, SETTINGS, tmp_path / "run", watcher=watcher)
    events = EventAccumulator(str(run.path / "tensorboard"), size_guidance={"tensors": 0})
    events.Reload()

    def curve(tag):
        return {e.step: e.tensor_proto.float_val[0] for e in events.Tensors(tag)}

    records = [record for record in run.metrics() if "validation" in record]
    for name in ("auc", "log_loss", "calibration"):
        expected = {r["step"]: pytest.approx(r["validation"][name]) for r in records}
        assert curve(f"validation/{name}") == expected
    assert curve("train/loss") == {r["step"]: pytest.approx(r["train_loss"]) for r in records}
    assert curve("train/loss of the batch") == {
        step: pytest.approx(losses.losses[step]) for step in (100, 200)
    }
    test = run.metrics()[-1]["test"]
    assert curve("test/auc") == {200: pytest.approx(test["auc"])}


def test_events_reach_every_watcher_with_their_names():
    class Last(Watcher):
        def step(self, step, loss):
            self.seen = step, loss

    watchers = [Last(), Last()]
    Watchers(watchers).step(7, loss=0.5)
    assert [watcher.seen for watcher in watchers] == [(7, 0.5)] * 2
