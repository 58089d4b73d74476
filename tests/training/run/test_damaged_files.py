"""Any damage to the JSON files of a run is one error that names the file."""

import json
import re
import shutil

import pytest

from robe_numba.serving import Scorer
from robe_numba.training import RunFolder, build_model, train, training_vocabulary, write_report
from robe_numba.training.run import checkpoints
from robe_numba.training.run.resume import restore_records
from robe_numba.training.sweeps.comparison import compare
from tests.support.commands import assert_refused
from tests.training.runs import as_earlier_version, edited, records, small_config, weights

VALUES = [None, True, 0, -1, 1.0, 1.5, 2**70, 10**400, "", "x", [], [[]], [1], {}, {"a": 1},
          float("nan")]  # fmt: skip
DEEP = "[" * 100_000 + "]" * 100_000


def damages(value):
    """A JSON text with each key removed, added or renamed, and each value replaced, everywhere."""

    def texts(inner):
        yield json.dumps(value)
        if isinstance(inner, dict):
            inner["unknown"] = 1
            yield json.dumps(value)
            del inner["unknown"]
        for key in list(inner) if isinstance(inner, dict) else range(len(inner[:2])):
            kept = inner[key]
            for other in VALUES:
                inner[key] = other
                yield json.dumps(value)
            inner[key] = kept
            if isinstance(inner, dict):
                before = dict(inner)
                del inner[key]
                yield json.dumps(value)
                inner.clear()
                inner.update(before)
            if isinstance(kept, dict | list):
                yield from texts(kept)

    yield from (text.encode() for text in texts(value))
    whole = json.dumps(value).encode()
    yield from (whole[: len(whole) * part // 7] for part in range(7))
    yield from (b"\xff" + whole, whole[:50] + b"\xfe" + whole[50:], b"null", b"[]")
    yield from (DEEP.encode(), f'{{"a": {DEEP}}}'.encode())


def use(folder):
    """Everything that reads a run."""
    run = RunFolder(folder)
    Scorer(run.path)
    write_report(run)
    compare(folder.parent.parent)
    return run


def refusal(function, *arguments):
    """The message of a ValueError, or None: no other error may come of damage."""
    try:
        function(*arguments)
    except ValueError as error:
        return str(error)
    return None


@pytest.fixture
def no_drawing(monkeypatch):
    """Hundreds of pictures take minutes."""
    monkeypatch.setattr("robe_numba.training.sweeps.comparison.draw", lambda *_: {})
    monkeypatch.setattr("robe_numba.training.reports.html.svg", lambda figure: "")


@pytest.fixture
def in_sweep(finished, tmp_path):
    """A run in the folder of a sweep, as an earlier version would have left it."""
    folder = shutil.copytree(finished, tmp_path / "sweep" / "runs" / "one")
    as_earlier_version(folder)
    use(folder)
    return folder


@pytest.mark.parametrize("part", ["format", "training", "model", "embedding", "sizes", "dataset"])
def test_a_damaged_config_is_an_error_that_names_it(in_sweep, no_drawing, part):
    """Without digests, so that the damage itself is what is found."""
    path = in_sweep / "config.json"
    whole = json.loads(path.read_text())
    whole["dataset"]["shards"] = whole["dataset"]["shards"][:1]
    refused = 0
    for text in damages({part: whole[part]}):
        rest = {name: value for name, value in whole.items() if name != part}
        # Not parsed and written again: some is no JSON.
        path.write_bytes(json.dumps(rest).encode()[:-1] + b", " + text[1:])
        message = refusal(use, in_sweep)
        assert message is None or "config.json" in message
        refused += message is not None
    assert refused > 10


@pytest.mark.parametrize("columns", ["dense", "categorical"])
@pytest.mark.parametrize("change", [-1, 1])
def test_a_model_of_other_columns_is_refused(in_sweep, columns, change):
    """Kernels would read past the features that they are given."""

    def another(config):
        names = config["dataset"][columns]
        config["dataset"][columns] = [*names, "more"][: len(names) + change]

    edited(in_sweep / "config.json", another)
    with pytest.raises(ValueError, match="columns where the model has"):
        Scorer(in_sweep)


def test_damaged_changes_are_an_error_that_names_the_config(unfinished, dataset, tmp_path):
    folder = shutil.copytree(unfinished, tmp_path / "run")
    as_earlier_version(folder)
    path = folder / "config.json"
    whole = json.loads(path.read_text())
    for text in damages({"changes": [{"step": 3, "changed": {"lr": 0.5}}]}):
        path.write_bytes(json.dumps(whole).encode()[:-1] + b", " + text[1:])
        message = refusal(lambda: restore_records(RunFolder(folder), [], 5))
        assert message is None or "config.json" in message


def test_damaged_metrics_are_an_error_that_names_them(in_sweep, no_drawing):
    path = in_sweep / "metrics.jsonl"
    lines = path.read_bytes().splitlines()
    for number in (0, len(lines) - 1):  # an evaluation and the test
        line = lines[number]
        for text in damages(json.loads(line)):
            changed = [*lines[:number], text, *lines[number + 1 :]]
            path.write_bytes(b"\n".join(changed) + b"\n")
            message = refusal(use, in_sweep)
            assert message is None or "metrics.jsonl is damaged" in message


def test_a_damaged_state_is_an_error_that_names_it(dataset, unfinished, tmp_path):
    """With its digest made anew, so that the damage itself is what is found."""
    run = RunFolder(shutil.copytree(unfinished, tmp_path / "run"))
    settings = small_config().resolved()
    model = build_model(dataset, settings, training_vocabulary(dataset, settings))
    path = run.checkpoints.path(6) / "state.json"
    whole = json.loads(path.read_text().splitlines()[0])
    whole["records"] = whole["records"][:1]
    refused = 0
    for text in damages(whole):
        path.write_bytes(text + b"\n" + checkpoints._digest(text).encode() + b"\n")
        message = refusal(run.checkpoints.load, model)
        assert re.search(
            "step-000000000006.*--overwrite", message or "step-000000000006--overwrite"
        )
        refused += message is not None
    assert refused > 50


@pytest.mark.parametrize("damage", [b"[" * 10**5, b"\xff\xfe{}", b"[]"])
@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl"])
def test_commands_refuse_damaged_json_in_one_sentence(
    dataset, finished, tmp_path, robe, name, damage
):
    folder = shutil.copytree(finished, tmp_path / "sweep" / "runs" / "one")
    (folder / name).write_bytes(damage + b"\n")
    sweep = ("sweep", dataset.path, "-o", tmp_path / "sweep")
    resume = ("train", dataset.path, "-o", folder, "--resume")
    for command in (sweep, resume):
        assert_refused(robe(*command), folder, name)
    if name == "config.json":
        assert_refused(robe("evaluate", folder, dataset.path), folder / name)


def test_a_damaged_metrics_file_does_not_keep_a_run_from_going_on(dataset, unfinished, tmp_path):
    folder = shutil.copytree(unfinished, tmp_path / "run")
    (folder / "metrics.jsonl").write_bytes(b"\xff{}\n{]\n")
    run = train(dataset, small_config(), folder, resume=True)
    unstopped = train(dataset, small_config(), tmp_path / "unstopped")
    assert weights(run) == weights(unstopped)
    assert records(run) == records(unstopped)


def test_a_shape_that_no_memory_holds_is_refused_before_it_is_made(dataset, finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "run")
    as_earlier_version(folder)
    edited(folder / "config.json", lambda settings: settings["model"].update(bottom=[10**12]))
    with pytest.raises(ValueError, match=r"model\.safetensors does not hold .*bottom"):
        RunFolder(folder).load_model()
