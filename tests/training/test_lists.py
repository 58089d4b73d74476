"""Runs on logs with lists of ids: settings, bytes, scores, reports, and what refuses them."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from data_tools import Dataset, ingest
from robe_numba.metrics import auc
from robe_numba.training import (
    RunFolder,
    TrainingConfig,
    build_model,
    evaluate,
    predict,
    score,
    train,
    training_vocabulary,
    write_report,
)
from robe_numba.training.pooling import parse_pooling, pooling_of
from robe_numba.training.run.config_file import DamagedRunError
from robe_numba.training.run.dataset_facts import dataset_facts
from robe_numba.training.sweeps.grid import grid, sweep
from tests.training.list_logs import PLAIN, WEIGHTED, click_chances, columns, make_dataset
from tests.training.run.test_killed_runs import CHILD
from tests.training.runs import as_earlier_version, edited, records, small_config, stopped, weights

SIZES = {"robe": {"compression": 5}, "full": {}, "hashed": {"compression": 5},
         "qr": {"compression": 2}}  # fmt: skip


def config(embedding="robe", **changes):
    size = {"compression": None} | SIZES[embedding]
    return small_config(embedding, **{"batch_size": 150, **size, **changes})


@pytest.fixture(scope="module")
def weighted(tmp_path_factory):
    """With weights."""
    return make_dataset(tmp_path_factory.mktemp("lists"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Without weights."""
    return make_dataset(tmp_path_factory.mktemp("plain"), PLAIN)


@pytest.fixture(scope="module")
def finished(weighted, tmp_path_factory):
    """A finished run."""
    run = train(weighted, config(), tmp_path_factory.mktemp("finished") / "run", threads=1)
    write_report(run)
    return run


@pytest.mark.parametrize("embedding", SIZES)
def test_any_threads_and_pauses_give_the_same_bytes(weighted, tmp_path, embedding):
    settings = config(embedding, pooling="genres=mean")
    runs = [train(weighted, settings, tmp_path / str(n), threads=n) for n in (1, 2, 3)]
    stopped(weighted, settings, tmp_path / "stopped", 5)
    runs.append(train(weighted, settings, tmp_path / "stopped", resume=True))
    assert len({weights(run) for run in runs}) == 1
    assert records(runs[-1]) == records(runs[0])
    assert runs[0].config["model"]["pooling"] == ["mean", "sum"]
    assert runs[0].config["embedding"]["pooling"] == ["mean", "sum"]


def test_a_killed_run_ends_with_the_same_bytes(weighted, tmp_path):
    settings = config("qr", pooling="genres=max")
    unstopped = train(weighted, settings, tmp_path / "unstopped", threads=1)
    arguments = [str(weighted.path), json.dumps(settings.to_dict()), str(tmp_path / "killed")]
    for calls, killed in (("60", True), ("1000000", False)):
        child = subprocess.run(
            [sys.executable, "-c", CHILD, *arguments, calls], check=False, capture_output=True
        )
        assert (child.returncode < 0) == killed, child.stderr
    assert weights(RunFolder(tmp_path / "killed")) == weights(unstopped)


def test_all_ids_of_lists_are_learned_from(plain, tmp_path):
    """No model of the first genre alone could score the test rows as well."""
    run = train(plain, config("full", epochs=8, lr=0.05), tmp_path / "run")
    test, chances = slice(-plain.split("test").num_rows, None), click_chances()
    firsts = [row[0] if row else -1 for row in columns()["genres"]]
    means = {first: chances[np.equal(firsts, first)].mean() for first in set(firsts)}
    labels = plain.split("test").labels()
    best = auc(labels, chances[test])
    best_of_first = auc(labels, np.array([means[first] for first in firsts[test]]))
    found = run.metrics()[-1]["test"]["auc"]
    assert best_of_first + 0.1 < best
    assert (best + best_of_first) / 2 < found < best + 0.02


def test_scores_are_those_of_the_model_row_by_row(weighted, finished, tmp_path):
    model, split = finished.load_model(1), weighted.split("test")
    scores = score(model, split)
    labels = split.labels()
    loss = -np.mean(np.where(labels == 1, np.log(scores), np.log1p(-scores.astype(float))))
    assert evaluate(model, split)["log_loss"] == pytest.approx(loss, rel=1e-5)
    assert finished.metrics()[-1]["test"] == evaluate(model, split)
    for number, batch in enumerate(split.batches(1)):
        if number % 10 == 0:
            found = model.predict(batch.dense, batch.indices, batch.multi_hot)
            assert found[0] == pytest.approx(scores[number], rel=1e-5)
    assert predict(model, weighted, tmp_path / "scores.parquet") == weighted.num_rows
    written = pq.read_table(tmp_path / "scores.parquet")["probability"].to_numpy()
    np.testing.assert_allclose(written[-len(scores) :], scores, rtol=1e-5)


def test_known_ids_of_lists_are_those_of_the_training_rows(weighted):
    found = training_vocabulary(weighted, config("full"))
    rows, log = weighted.split("train").num_rows, columns()
    assert len(found) == 3
    np.testing.assert_array_equal(found[0], np.unique(log["site"][:rows]))
    for ids, name in zip(found[1:], ("genres", "seen"), strict=True):
        np.testing.assert_array_equal(ids, sorted({x for row in log[name][:rows] for x in row}))


def test_a_run_says_how_lists_are_pooled_and_how_long_they_are(weighted, finished):
    facts, log = finished.config["dataset"], columns()
    assert facts["categorical"] == ["site"]
    assert facts["multi_hot"] == ["genres", "seen"]
    assert facts["weights"] == [None, "seen_weights"]
    means = [np.mean([len(row) for row in log[name]]) for name in ("genres", "seen")]
    assert facts["ids_per_row"] == pytest.approx(means)
    assert finished.is_own(weighted)
    report = (finished.path / "report.html").read_text()
    assert "<h2>Multi-hot features</h2>" in report
    cells = "".join(f"<td>{cell}</td>" for cell in ("seen", "sum", f"{means[1]:.5g}"))
    assert f"<tr>{cells}<td>seen_weights</td></tr>" in report


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value["dataset"]["multi_hot"].pop(),
        lambda value: value["dataset"]["ids_per_row"].pop(),
        lambda value: value["dataset"]["weights"].append("w"),
        lambda value: value["model"]["pooling"].pop(),
        lambda value: value["model"].pop("pooling"),
        lambda value: value["embedding"].update(pooling="sum"),
    ],
)
def test_facts_that_contradict_each_other_are_damage(finished, tmp_path, change):
    shutil.copytree(finished.path, tmp_path / "run")
    as_earlier_version(tmp_path / "run")  # without digests
    edited(tmp_path / "run" / "config.json", change)
    with pytest.raises(DamagedRunError):
        RunFolder(tmp_path / "run")


def test_another_pooling_of_the_embedding_is_found_when_the_model_is_loaded(finished, tmp_path):
    shutil.copytree(finished.path, tmp_path / "run")
    as_earlier_version(tmp_path / "run")
    change = lambda value: value["embedding"].update(pooling=["max", "sum"])  # noqa: E731
    edited(tmp_path / "run" / "config.json", change)
    with pytest.raises(ValueError, match=r"does not hold the model of config.json \(pooling is"):
        RunFolder(tmp_path / "run").load_model()


def test_other_lists_are_refused(plain, finished):
    with pytest.raises(ValueError, match=r"trained with weights = \[None, 'seen_weights'\], but"):
        finished.check_dataset(plain)


def test_max_length_is_part_of_the_preparation(plain, tmp_path):
    shorter = make_dataset(tmp_path, PLAIN, max_length=2)
    run = train(shorter, config(), tmp_path / "run")
    assert RunFolder(run.path).config["dataset"]["max_length"] == 2
    with pytest.raises(ValueError, match="trained with max_length = 2, but this dataset has None"):
        run.check_dataset(plain)


def test_lists_that_are_made_while_they_are_read(dataset, tmp_path):
    """Of clicks with single ids, whose files have no lists; half of the columns stay single."""
    sizes = (1, 3) * 13
    clicks = dataset.path.parent / "clicks.tsv"
    ingest(clicks, tmp_path / "made", ids="appearance", multi_hot_sizes=sizes, multi_hot_seed=7)
    made, settings = Dataset(tmp_path / "made"), config(pooling="C2=mean", epochs=1)
    stopped(made, settings, tmp_path / "run", 5)
    run = train(made, settings, tmp_path / "run", resume=True)
    assert weights(run) == weights(train(made, settings, tmp_path / "other"))
    facts, model = RunFolder(run.path).config["dataset"], run.config["model"]
    assert (facts["multi_hot_sizes"], facts["multi_hot_seed"]) == ([*sizes], 7)
    assert facts["categorical"] == [f"C{i}" for i in range(1, 27, 2)]
    assert facts["multi_hot"] == [f"C{i}" for i in range(2, 27, 2)]
    assert facts["ids_per_row"] == [3.0] * 13
    assert model["pooling"] == ["mean", *["sum"] * 12]
    assert RunFolder(run.path).is_own(made)
    RunFolder(run.path).check_dataset(made)
    ingest(clicks, tmp_path / "next", ids="appearance", multi_hot_sizes=sizes, multi_hot_seed=8)
    with pytest.raises(ValueError, match="trained with multi_hot_seed = 7, but this dataset has 8"):
        run.check_dataset(Dataset(tmp_path / "next"))


def test_what_takes_single_ids_alone_refuses_such_runs(finished, tmp_path):
    from robe_numba.onnx import export_run

    words = r"has multi-hot features \(genres, seen\), but an exported model takes one id "
    with pytest.raises(ValueError, match=f"{words}of each feature; serve it with robe serve, or"):
        export_run(finished.path, tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("pooling", "error", "message"),
    [
        (
            "median",
            ValueError,
            "write one of sum, mean, max for all multi-hot features, or name them",
        ),
        ("genres=median", ValueError, "write one of sum, mean, max"),
        ("genres=", ValueError, "write one of sum, mean, max"),
        ("=sum", ValueError, "write one of sum, mean, max"),
        ("genres=sum,genres=max", ValueError, "names genres twice"),
        ("", ValueError, "write one of sum, mean, max"),
        (("sum",), TypeError, "pooling is"),
    ],
)
def test_poolings_that_cannot_be_read(pooling, error, message):
    with pytest.raises(error, match=message):
        config(pooling=pooling)


def test_poolings_by_name():
    assert parse_pooling("genres=mean, a=b=max") == {"genres": "mean", "a=b": "max"}
    assert pooling_of("mean", PLAIN) == ("mean", "mean")
    assert pooling_of("seen=max", PLAIN) == ("sum", "max")
    assert pooling_of("sum", WEIGHTED) == ("sum", "sum")
    assert pooling_of("genres=max", WEIGHTED) == ("max", "sum")


@pytest.mark.parametrize(
    ("pooling", "message"),
    [
        ("seen=mean", "seen is pooled by 'mean', but its ids have weights"),
        ("max", "seen is pooled by 'max', but its ids have weights"),
        ("actors=mean", "pooling names actors, but the multi-hot features are genres, seen"),
        ("site=mean", "pooling names site, but the multi-hot features are genres, seen"),
    ],
)
def test_poolings_that_do_not_fit_the_log(weighted, tmp_path, pooling, message):
    with pytest.raises(ValueError, match=message):
        build_model(weighted, config(pooling=pooling), [np.arange(3)] * 3)
    with pytest.raises(ValueError, match=message):
        train(weighted, config(pooling=pooling), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_cardinalities_are_one_per_feature(plain):
    sizes = {"compression": 2, "cardinalities": (9, 30, 200)}
    assert build_model(plain, config(**sizes), None).embedding.num_tables == 3
    with pytest.raises(ValueError, match="there are 1 cardinalities"):
        build_model(plain, config(**sizes | {"cardinalities": (9,)}), None)


def test_a_sweep_of_poolings(plain, tmp_path):
    configs = grid({"pooling": ["mean", "genres=max", "actors=max"], "compression": [5],
                    "bottom": [(8,)], "top": [(8,)], "evaluations": [1]})  # fmt: skip
    outcomes = sweep(plain, configs, tmp_path / "sweep")
    assert [outcome.error is None for outcome in outcomes] == [True, True, False]
    assert "pooling names actors" in outcomes[2].error
    pooled = [RunFolder(outcome.path).config["model"]["pooling"] for outcome in outcomes[:2]]
    assert pooled == [["mean", "mean"], ["max", "sum"]]


def test_the_command_takes_poolings(plain, robe, tmp_path):
    sizes = ("--compression", 5, "--bottom", 8, "--top", 8, "--quiet")
    status, output = robe(
        "train", plain.path, "-o", tmp_path / "run", "--pooling", "genres=mean,seen=max", *sizes
    )
    assert status == 0, output
    assert RunFolder(tmp_path / "run").config["model"]["pooling"] == ["mean", "max"]
    status, output = robe("predict", tmp_path / "run", plain.path, "-o", tmp_path / "s.parquet")
    assert status == 0, output
    status, output = robe("export", tmp_path / "run", "-o", tmp_path / "model.onnx")
    assert status == 1
    assert "but an exported model takes one id of each feature; serve it with" in output


def test_runs_without_lists_are_as_before(dataset, tmp_path):
    """Also those of versions that did not know the setting."""
    settings = small_config()
    with pytest.raises(ValueError, match="the dataset has no multi-hot features; leave it out"):
        train(dataset, small_config(pooling="mean"), tmp_path / "none")
    run = stopped(dataset, settings, tmp_path / "run", 4)
    for name in ("model", "embedding"):
        assert "pooling" not in run.config[name]
    assert not {"multi_hot", "weights", "ids_per_row"} & set(dataset_facts(dataset))
    edited(run.path / "config.json", lambda value: value["training"].pop("pooling"))
    again = train(dataset, settings, tmp_path / "run", resume=True)
    assert weights(again) == weights(train(dataset, settings, tmp_path / "other"))


def test_a_setting_of_the_default_is_not_in_checkpoints(weighted, tmp_path):
    """So that those of earlier versions fit; another pooling is in them."""
    run = stopped(weighted, config(pooling="genres=max"), tmp_path / "run", 4)
    with pytest.raises(ValueError, match="was started with pooling genres=max"):
        train(weighted, config(), run.path, resume=True)
    assert TrainingConfig(compression=2).pooling == "sum"
