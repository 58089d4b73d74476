"""Counting ids, loading a model and evaluating it on several ranks, as one process does."""

from dataclasses import replace

import numpy as np
import pytest

from robe_numba import metrics
from robe_numba.training import build_model, evaluate, score, train, training_vocabulary
from tests.mpi.runs import CONFIG


@pytest.fixture(scope="module")
def model(dataset):
    return build_model(dataset, CONFIG, training_vocabulary(dataset, CONFIG), 1)


@pytest.mark.parametrize("part", ["validation", "test", "train"])
def test_metrics_are_those_of_one_process(group, dataset, model, part):
    rows, heard = dataset.split(part), []
    found = evaluate(model, rows, lambda *progress: heard.append(progress), group)
    assert group.all_gather(found) == [found] * group.size
    mine = rows.part(group.rank, group.size)
    assert heard[-1] == (mine.num_rows, mine.num_rows)
    # AUC is exact for equal scores, whose last bit may depend on the rows scored with them.
    parts = [rows.part(rank, group.size) for rank in range(group.size)]
    scores = np.concatenate([score(model, each) for each in parts])
    assert found["auc"] == metrics.auc(rows.labels(), scores)
    alone = evaluate(model, rows)
    np.testing.assert_allclose(scores, score(model, rows), rtol=1e-6)
    assert list(found) == list(alone)
    assert [found[name] for name in ("rows", "click_rate")] == [rows.num_rows, alone["click_rate"]]
    for name in ("log_loss", "normalized_entropy", "calibration"):
        assert found[name] == pytest.approx(alone[name], rel=1e-6)


def test_a_few_rows_are_evaluated_too(group, dataset, model):
    """Some ranks have no row; a single row has no AUC."""
    for count in range(3):
        rows = dataset.split("test").part(0, 250 // count if count else 10**6)
        assert rows.num_rows == count
        found, alone = evaluate(model, rows, group=group), evaluate(model, rows)
        assert found["auc"] == alone["auc"]
        assert [value is None for value in found.values()] == [
            value is None for value in alone.values()
        ]
        assert (found["log_loss"] is None) == (count == 0)


def test_scores_that_are_no_numbers_are_counted_on_all_ranks(group, dataset, model):
    rows = dataset.split("test")
    broken = build_model(dataset, CONFIG, training_vocabulary(dataset, CONFIG), 1)
    broken.load(model.parameters() | model.state())
    if group.rank == group.size - 1:
        broken.parameters()["top.1.bias"][:] = np.nan
    bad = rows.part(group.size - 1, group.size).num_rows
    with pytest.raises(FloatingPointError, match=f"{bad} of 250 scores are not finite"):
        evaluate(broken, rows, group=group)


def test_ids_are_counted_by_all_as_by_one(group, dataset):
    heard = []
    found = training_vocabulary(dataset, CONFIG, lambda *progress: heard.append(progress), group)
    expected = training_vocabulary(dataset, CONFIG)
    assert len(found) == len(expected) == 26
    for ids, wanted in zip(found, expected, strict=True):
        assert ids.dtype == wanted.dtype
        np.testing.assert_array_equal(ids, wanted)
    assert heard == [(min(n, 26), 26) for n in range(group.size, 26 + group.size, group.size)]
    assert max(map(len, found)) > 1


def test_rank_0_alone_reads_the_model_that_all_score_with(group, dataset, folder):
    config = replace(CONFIG, embedding="full", compression=None)
    run = train(dataset, config, folder / "run", group=group)
    if not group.is_root:
        run.path = folder / "there is none"
    model = run.load_model(1, "cpu", group)
    result = evaluate(model, dataset.split("test"), group=group)
    if group.is_root:
        assert result == run.metrics()[-1]["test"]
        alone = run.load_model(1)
        assert {n: a.tobytes() for n, a in model.parameters().items()} == {
            n: a.tobytes() for n, a in alone.parameters().items()
        }
        (run.path / "model.safetensors").write_bytes(b"damaged")
    group.all_gather(None)
    with pytest.raises(ValueError, match=r"does not hold the model of config\.json"):
        run.load_model(1, "cpu", group)
