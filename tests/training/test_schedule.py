"""Learning rates over the steps, clipping, when to evaluate, and when to stop."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_tools import Dataset, ingest
from data_tools.synthetic.generator import Generator
from robe_numba.dlrm import DLRM, DLRMConfig, Schedule, make_embedding
from robe_numba.training import (
    RunFolder,
    TrainingConfig,
    TrainingInterrupted,
    Watcher,
    train,
)
from tests.training.runs import Stop


def mlperf_factor(step, warmup, start, decay):
    """MLPerf's rules, step by step and exact: the rate is kept once the decay has ended."""
    last = Fraction(1)
    for count in range(1, step + 1):
        if count < warmup:
            last = Fraction(count, warmup)
        elif start <= count < start + decay:
            last = Fraction(start + decay - count, decay) ** 2
        elif count < start:
            last = Fraction(1)
    return last


@given(st.integers(0, 20), st.integers(0, 20), st.integers(1, 20), st.integers(1, 80))
def test_a_schedule_is_that_of_mlperf(warmup, pause, decay, step):
    schedule = Schedule(warmup, warmup + pause, decay)
    expected = mlperf_factor(step, warmup, warmup + pause, decay)
    assert math.isclose(schedule.factor(step), expected, rel_tol=1e-15)


def test_without_arguments_nothing_changes_the_learning_rate():
    assert {Schedule().factor(step) for step in range(1, 1000)} == {1.0}
    warm = Schedule(warmup_steps=4)
    assert [warm.factor(step) for step in range(1, 7)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_a_decay_within_the_warm_up_is_refused():
    with pytest.raises(ValueError, match="decay_start is 3, within the warm-up of 4 steps"):
        Schedule(4, 3, 5)


def test_the_large_batches_of_mlperf_have_its_schedule():
    config = TrainingConfig(preset="mlperf-32k", num_parameters=100, block_size=8).resolved()
    assert (config.lr, config.batch_size) == (18.0, 32_768)
    schedule = config.schedule(128_000)
    factors = [schedule.factor(s) for s in (4_000, 8_000, 69_999, 85_000, 99_999, 120_000)]
    assert factors == pytest.approx([0.5, 1, 1, 0.25, 1 / 9e8, 1 / 9e8], rel=1e-12)
    own = TrainingConfig(preset="mlperf-32k", num_parameters=100, warmup_steps=3).resolved()
    assert own.schedule(10) == Schedule(3, 70_000, 30_000)


def test_a_decay_without_its_length_lasts_until_the_end():
    config = TrainingConfig(num_parameters=100, decay_start=20).resolved()
    assert config.schedule(120) == Schedule(0, 20, 100)


def config(**changes):
    return TrainingConfig(**{"num_parameters": 3000, "lr": 0.02, "batch_size": 256,
                             "evaluations": 1, **changes})  # fmt: skip


def evaluated_steps(run):
    return [record["step"] for record in run.metrics() if "validation" in record]


class Rates(Watcher):
    """Notes the learning rates of each step."""

    def begin(self, model, steps, done):
        self.rates = []
        original = model.train_step

        def note(dense, indices, labels, lr, embedding_lr, *others):
            self.rates.append((lr, embedding_lr))
            return original(dense, indices, labels, lr, embedding_lr, *others)

        model.train_step = note


def test_a_run_steps_at_the_rates_of_its_schedule(dataset, tmp_path):
    rates = Rates()
    settings = config(warmup_steps=2, decay_start=5, embedding_lr=0.04)
    train(dataset, settings, tmp_path / "run", watcher=rates)
    schedule = Schedule(2, 5, 8 - 5)  # 2,000 rows are 8 steps
    factors = [schedule.factor(step) for step in range(1, 9)]
    assert rates.rates == [(0.02 * factor, 0.04 * factor) for factor in factors]


def test_evaluations_come_every_so_many_steps_and_at_the_end(dataset, tmp_path):
    run = train(dataset, config(evaluation_steps=3, epochs=2), tmp_path / "run")
    assert evaluated_steps(run) == [3, 6, 9, 12, 15, 16]


def test_a_run_stops_at_its_target(dataset, tmp_path):
    whole = train(dataset, config(evaluation_steps=2, epochs=3), tmp_path / "whole")
    curve = [r["validation"]["auc"] for r in whole.metrics() if "validation" in r]
    target = curve[3] if curve[3] > max(curve[:3]) else max(curve[:3])
    settings = config(evaluation_steps=2, epochs=3, target_auc=target)
    run = train(dataset, settings, tmp_path / "run")
    first = next(number for number, auc in enumerate(curve) if auc >= target)
    assert evaluated_steps(run) == [2 * n for n in range(1, first + 2)]
    assert run.finished


def test_a_run_stops_once_its_patience_is_at_an_end(dataset, tmp_path):
    settings = config(evaluation_steps=1, epochs=20, lr=0.2, patience=3)
    run = train(dataset, settings, tmp_path / "run")
    curve = [r["validation"]["auc"] for r in run.metrics() if "validation" in r]
    assert len(curve) < 160
    best = int(np.argmax(curve))
    assert len(curve) == best + 1 + 3
    waits = [n - 1 - int(np.argmax(curve[:n])) for n in range(1, len(curve))]
    assert max(waits) < 3


@pytest.mark.parametrize("kind", ["robe", "qr"])
@pytest.mark.parametrize("share", [0.5, 2.0])
def test_a_long_gradient_is_scaled_down_to_the_norm(kind, share):
    """Against the gradients in float64: SGD moves by lr times what is left of them."""
    rng = np.random.default_rng(3)
    batch, tables = 40, 3
    dense = rng.standard_normal((batch, 13))
    indices = rng.integers(0, 9, (batch, tables))
    labels = rng.integers(0, 2, batch).astype(np.float64)

    def model():
        embedding = make_embedding(
            kind, embedding_dim=8, num_tables=tables, num_parameters=300, block_size=4, scale=0.5,
            vocabulary=[np.arange(9)] * tables, dtype=np.float64,
        )  # fmt: skip
        shape = DLRMConfig(num_tables=tables, embedding_dim=8, bottom=(6,), top=(5,))
        return DLRM(shape, embedding, dtype=np.float64)

    plain = model()
    _, gradients = plain.loss_and_gradients(dense, indices, labels)
    *_, looked_up, _ = plain.backpropagate(dense, indices, labels)
    squares = [np.sum(g**2) for name, g in gradients.items() if not name.startswith("embedding")]
    norm = math.sqrt(sum(squares) + np.sum(looked_up**2))
    clipped = model()
    before = {name: array.copy() for name, array in clipped.parameters().items()}
    clipped.train_step(dense, indices, labels, 0.1, clip_norm=share * norm)
    for name, array in clipped.parameters().items():
        moved = -0.1 * min(1.0, share) * gradients[name]
        np.testing.assert_allclose(array - before[name], moved, rtol=1e-9, atol=1e-15)


def test_a_loss_that_is_not_finite_moves_nothing():
    embedding = make_embedding("robe", embedding_dim=8, num_tables=2, num_parameters=64)
    model = DLRM(DLRMConfig(num_tables=2, embedding_dim=8, bottom=(4,), top=(4,)), embedding)
    dense = np.full((5, 13), np.float32(np.inf))
    before = {name: array.copy() for name, array in model.parameters().items()}
    loss = model.train_step(dense, np.zeros((5, 2), np.int64), np.ones(5, np.float32), 0.1)
    assert not math.isfinite(loss)
    for name, array in model.parameters().items():
        np.testing.assert_array_equal(array, before[name])


def test_the_bits_of_a_clipped_run_do_not_depend_on_threads(dataset, tmp_path):
    runs = [
        train(dataset, config(clip_norm=0.1), tmp_path / str(threads), threads=threads)
        for threads in (1, 2, 3)
    ]
    assert len({(run.path / "model.safetensors").read_bytes() for run in runs}) == 1


def test_compression_may_be_counted_from_given_tables(dataset, tmp_path):
    sizes = tuple(range(1000, 27_000, 1000))
    run = train(
        dataset,
        config(num_parameters=None, compression=100, cardinalities=sizes),
        tmp_path / "run",
    )
    assert run.config["sizes"]["embedding_bytes"] == 4 * round(sum(sizes) * 16 / 100)
    with pytest.raises(ValueError, match="3 cardinalities, but the dataset has 26"):
        train(
            dataset,
            config(num_parameters=None, compression=2, cardinalities=(9, 9, 9)),
            tmp_path / "other",
        )


def test_ids_are_counted_only_where_a_model_needs_it(dataset, tmp_path):
    class Counting(Watcher):
        counted = 0

        def counting(self, done, total):
            self.counted = done

    watcher = Counting()
    train(dataset, config(), tmp_path / "size", watcher=watcher)
    assert watcher.counted == 0
    settings = config(num_parameters=None, compression=10)
    run = train(dataset, settings, tmp_path / "ratio", watcher=watcher)
    assert watcher.counted == 26
    assert RunFolder(run.path).finished


def test_other_widths_make_other_layers(dataset, tmp_path):
    run = train(dataset, config(bottom=(), top=(7, 5)), tmp_path / "run")
    assert run.config["model"]["top"] == [7, 5]
    shapes = {n: a.shape for n, a in run.load_model().parameters().items() if "weight" in n}
    assert shapes == {
        "bottom.0.weight": (16, 13), "top.0.weight": (7, 367), "top.1.weight": (5, 7),
        "top.2.weight": (1, 5),
    }  # fmt: skip


@pytest.fixture(scope="module")
def one_class(tmp_path_factory):
    """3000 rows whose last fifth, which validates and tests, has no click."""
    folder = tmp_path_factory.mktemp("one-class")
    Generator(seed=5, scale=0.001).write(folder / "log.tsv", 3000)
    lines = (folder / "log.tsv").read_text().splitlines(keepends=True)
    lines[2400:] = ["0" + line[1:] for line in lines[2400:]]
    (folder / "log.tsv").write_text("".join(lines))
    ingest(folder / "log.tsv", folder / "data")
    return Dataset(folder / "data")


@pytest.mark.parametrize("settings", [{"patience": 1}, {"target_auc": 0.6}])
def test_stopping_by_an_auc_that_is_not_defined_is_refused_before_training(
    one_class, tmp_path, settings
):
    base = {"num_parameters": 3000, "bottom": (8,), "top": (8,), "evaluations": 1}
    with pytest.raises(ValueError, match="all 300 are of one class; leave it out, or choose"):
        train(one_class, TrainingConfig(**base, **settings), tmp_path / "run")
    empty = {"fractions": (0.9, 0.0, 0.1)}
    with pytest.raises(ValueError, match="there are none"):
        train(one_class, TrainingConfig(**base, **settings, **empty), tmp_path / "run")
    assert not list(tmp_path.iterdir())
    # Rows of both classes are enough, and without such a setting none are needed.
    mixed = {"fractions": (0.5, 0.4, 0.1)}
    assert train(one_class, TrainingConfig(**base, **settings, **mixed), tmp_path / "1").finished
    assert train(one_class, TrainingConfig(**base), tmp_path / "2").finished


def test_a_run_started_with_such_a_setting_can_be_resumed(one_class, tmp_path, monkeypatch):
    config = TrainingConfig(
        num_parameters=3000, bottom=(8,), top=(8,), evaluations=1, patience=1, epochs=2
    )
    with monkeypatch.context() as patch:  # as earlier versions did
        patch.setattr("robe_numba.training.run.root_only.check_stopping", lambda *_: None)
        with pytest.raises(TrainingInterrupted):
            train(one_class, config, tmp_path / "run", watcher=Stop(5))
    assert train(one_class, config, tmp_path / "run", resume=True).finished
