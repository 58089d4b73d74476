"""Grids of runs: each trained once, compared by figures that can be counted again."""

import json
import statistics

import pytest

from robe_numba.training import RunFolder, Watcher
from robe_numba.training.settings import LATER
from robe_numba.training.sweeps.comparison import best_of, compare, draw, groups, reference
from robe_numba.training.sweeps.grid import grid, run_name, sweep
from tests.training.runs import as_earlier_version, edited

SMALL = {"batch_size": [256], "evaluations": [2], "bottom": [(8,)], "top": [(8,)]}


AXES = {
    "embedding": ["full", "robe", "qr"], "compression": [2, 1e4], "block_size": [4, 16],
    "seed": [0, 1], **SMALL,
}  # fmt: skip


@pytest.fixture(scope="module")
def swept(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("swept")
    return folder, sweep(dataset, grid(AXES), folder, jobs=2)


def test_a_grid_is_every_combination_that_a_kind_has_a_use_for():
    configs = grid(AXES)
    counts = {kind: sum(c.embedding == kind for c in configs) for kind in AXES["embedding"]}
    assert counts == {"full": 2, "robe": 2 * 2 * 2, "qr": 2 * 2}
    assert len({run_name(config) for config in configs}) == len(configs)
    assert all(config.resolved() == config for config in configs)
    with pytest.raises(TypeError, match="colour"):
        grid({"colour": ["red"]})
    with pytest.raises(ValueError, match="choose one of robe"):
        grid({"embedding": ["magic"], "compression": [10]})


def test_every_run_is_there_and_what_cannot_be_says_why(swept):
    _, outcomes = swept
    failed = [outcome for outcome in outcomes if outcome.error]
    assert {(o.config.embedding, o.config.compression) for o in failed} == {
        ("qr", 1e4), ("robe", 1e4),
    }  # fmt: skip
    for outcome in failed:
        assert "needs at least" in outcome.error or "lower the compression" in outcome.error
        assert not outcome.path.exists()
    for outcome in outcomes:
        if not outcome.error:
            run = RunFolder(outcome.path)
            assert run.finished
            assert run.config["training"] == outcome.config.to_dict()


class Never(Watcher):
    def begin(self, model, steps, done):
        raise AssertionError("trained again")


def test_what_is_finished_is_not_trained_again(dataset, swept):
    folder, outcomes = swept
    kept = [outcome.config for outcome in outcomes if not outcome.error]
    done = []
    sweep(
        dataset, kept, folder, watching=lambda config: Never(), progress=lambda *n: done.append(n)
    )
    assert done == [(n, len(kept)) for n in range(1, len(kept) + 1)]


def test_runs_from_before_there_was_a_choice_of_interaction_are_not_trained_again(
    dataset, tmp_path
):
    axes = {"embedding": ["full"], "seed": [0, 1], **SMALL}
    first, second = grid(axes)
    (outcome,) = sweep(dataset, [first], tmp_path)
    as_earlier_version(outcome.path)
    edited(
        outcome.path / "config.json",
        lambda value: [value["training"].pop(name) for name in LATER],
    )
    older = outcome.path.rename(outcome.path.with_name("older"))
    (again,) = sweep(dataset, [first], tmp_path, watching=lambda config: Never())
    assert (again.path, again.error) == (older, None)
    sweep(dataset, [second], tmp_path)
    (group,) = groups(tmp_path)  # whatever version made them
    assert sorted(group.seeds) == [0, 1]


def test_the_table_says_what_the_runs_do(swept):
    folder, outcomes = swept
    found = compare(folder, ceiling=0.9, target=0.45)
    assert found[0].settings["embedding"] == "full"
    sizes = [group.num_bytes for group in found[1:]]
    assert sizes == sorted(sizes, reverse=True)
    assert sorted(group.settings["embedding"] for group in found[1:]) == [
        "qr",
        "robe",
        "robe",
        "robe",
    ]
    written = json.loads((folder / "results.json").read_text())
    for group, facts in zip(found, written, strict=True):
        runs = [
            RunFolder(o.path).metrics()
            for o in outcomes
            if not o.error and {**o.config.to_dict(), "seed": 0} == {**group.settings, "seed": 0}
        ]
        tests = [records[-1]["test"]["auc"] for records in runs]
        assert sorted(facts["test_auc"]) == sorted(tests)
        assert group.mean == statistics.mean(tests)
        assert group.deviation == pytest.approx(statistics.stdev(tests))
        best = [max(r["validation"]["auc"] for r in records[:-1]) for records in runs]
        assert group.validation == pytest.approx(statistics.mean(best))
    full = reference(found)
    table = (folder / "table.md").read_text()
    assert len(table.splitlines()) == 2 + len(found)
    for group in found:
        assert f"{group.mean:.4f} ± {group.deviation:.4f}" in table
        if group is not full:
            assert f"{group.mean - full.mean:+.4f}" in table
    assert "block size" in table
    assert "batch size" not in table  # the same for all
    for name in ("memory", "block-size", "epochs", "target"):
        assert (folder / f"{name}.png").stat().st_size > 5000
    assert (folder / "report.html").read_text().count("<svg") == 4


def test_time_to_a_target_is_that_of_the_first_evaluation_that_reaches_it(swept):
    folder, _ = swept
    for group in groups(folder):
        for target in (0.3, group.validation, 0.999):
            times = []
            for curve in group.curves:
                reached = [seconds for _, seconds, auc in curve if auc >= target]
                times.append(reached[0] if reached else None)
            expected = None if None in times else statistics.mean(times)
            assert group.time_to(target) == expected


def test_choices_are_made_by_validation_not_by_test(swept):
    folder, _ = swept
    found = groups(folder)
    for (kind,), chosen in best_of(found, ["embedding"]).items():
        mine = [group for group in found if group.settings["embedding"] == kind]
        assert chosen.validation == max(group.validation for group in mine)
    assert "memory" in draw(found[:1], None, 0.5)


def test_a_folder_without_runs_has_nothing_to_compare(tmp_path):
    assert compare(tmp_path) == []
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_trained_does_not_stop_the_others(dataset, tmp_path):
    axes = {"num_parameters": [3000], "optimizer": ["sgd"], "lr": [1e30, 0.03], **SMALL}
    wild, tame = sweep(dataset, grid(axes), tmp_path)
    assert "training has diverged" in wild.error
    assert tame.error is None
    assert len(groups(tmp_path)) == 1


def test_a_folder_of_something_else_is_left_alone(dataset, tmp_path):
    (tmp_path / "report.html").write_text("mine")
    with pytest.raises(FileExistsError, match="is not a sweep"):
        sweep(dataset, grid({"num_parameters": [3000]}), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
