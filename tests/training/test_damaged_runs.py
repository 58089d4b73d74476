"""Runs that were damaged, edited or set as a trap are refused by name, and score nothing wrong."""

import copy
import json
import os
import re
import shutil

import numpy as np
import pytest

from robe_numba.training import (
    RunFolder,
    TrainingConfig,
    build_model,
    evaluate,
    train,
    training_vocabulary,
    write_report,
)
from robe_numba.training.run import checkpoints
from robe_numba.training.run.resume import restore_records
from robe_numba.training.run.weights import model_from_weights, read_weights, save_weights
from robe_numba.training.sweeps.comparison import compare
from tests.training.runs import SIZES, die_at_call, records, stopped, weights

SMALL = {"lr": 0.02, "batch_size": 256, "evaluations": 2, "bottom": (8,), "top": (8,)}


def config(embedding="robe", **changes):
    return TrainingConfig(**{"embedding": embedding, **SIZES[embedding], **SMALL, **changes})


@pytest.fixture(scope="module")
def finished(dataset, tmp_path_factory):
    return train(dataset, config(), tmp_path_factory.mktemp("finished") / "run").path


@pytest.fixture(scope="module")
def unfinished(dataset, tmp_path_factory):
    return stopped(dataset, config(), tmp_path_factory.mktemp("unfinished") / "run", 6).path


def assert_refused(result, *words):
    """Status 1 and one sentence, with these words."""
    status, text = result
    assert status == 1, text
    (line,) = text.strip().splitlines()
    assert line.startswith("error: ")
    for word in words:
        assert str(word) in line


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


def test_every_change_of_a_model_is_noticed(finished, tmp_path):
    run = RunFolder(shutil.copytree(finished, tmp_path / "run"))
    whole = bytearray(weights(run))
    header = int.from_bytes(whole[:8], "little")
    # Every byte of the header and of the first values, then one in a hundred.
    places = [*range(header + 40), *range(header + 40, len(whole), 101), len(whole) - 1]
    for place in places:
        whole[place] ^= 1
        run.model_path.write_bytes(whole)
        whole[place] ^= 1
        with pytest.raises(ValueError, match=r"model\.safetensors does not hold .*restore it"):
            run.check_model()
    for other in (whole[:-4], whole + b"\0", b""):
        run.model_path.write_bytes(other)
        with pytest.raises(ValueError, match=r"model\.safetensors does not hold .*restore it"):
            run.load_model()
    run.model_path.write_bytes(whole)
    run.check_model()


def test_commands_refuse_a_changed_model(dataset, finished, tmp_path, robe):
    run = RunFolder(shutil.copytree(finished, tmp_path / "run"))
    content = bytearray(weights(run))
    content[-1] ^= 0x40  # of the last weight, half or twice as large
    run.model_path.write_bytes(content)
    remedy = "restore it from a copy, or train again"
    scores = tmp_path / "scores.parquet"
    for command in (
        ("evaluate", run.path, dataset.path),
        ("predict", run.path, dataset.path, "-o", scores),
        ("train", dataset.path, "-o", run.path, "--resume"),
    ):
        assert_refused(robe(*command), run.model_path, remedy)
    assert not scores.exists()


def leaves(value, path=()):
    """Every value that is no object or list, with its keys."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    for key, each in inner:
        if isinstance(each, dict | list):
            yield from leaves(each, (*path, key))
        else:
            yield (*path, key), each


def another(value):
    """Of the same type."""
    if isinstance(value, bool) or value is None:
        return not value
    return value + 1 if isinstance(value, int | float) else f"{value}x"


def test_every_change_of_a_setting_is_noticed(finished, tmp_path):
    run = RunFolder(shutil.copytree(finished, tmp_path / "run"))
    path = run.path / "config.json"
    before = json.loads(path.read_text())
    for keys, value in leaves(before):
        changed = copy.deepcopy(before)
        inner = changed
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = another(value)
        path.write_text(json.dumps(changed))
        with pytest.raises(ValueError, match=r"config\.json"):
            RunFolder(run.path)
    path.write_text(json.dumps(before, sort_keys=True))  # another text that says the same
    assert RunFolder(run.path).config == run.config


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [("training", "seed", 1), ("training", "split_by", "random"), ("spec", "seed", 1),
     ("spec", "sign", False), ("spec", "block_size", 8), ("spec", "hash", "paper"),
     ("model", "interaction", "cat"), ("dataset", "dense_transform", "none")],
)  # fmt: skip
def test_commands_refuse_a_changed_setting(dataset, finished, tmp_path, robe, part, key, value):
    run = RunFolder(shutil.copytree(finished, tmp_path / "run"))
    before = evaluate(run.load_model(), dataset.split("test"))

    def change(settings):
        inner = settings["embedding"]["specs"]["array"] if part == "spec" else settings[part]
        assert inner[key] != value
        inner[key] = value

    path = run.path / "config.json"
    original = path.read_text()
    edited(path, change)
    for command in ("evaluate", "predict"):
        options = ("-o", tmp_path / "scores.parquet") if command == "predict" else ()
        result = robe(command, run.path, dataset.path, *options)
        assert_refused(result, path, "restore it from a copy, or train again")
    result = robe("train", dataset.path, "-o", run.path, "--resume")
    assert_refused(result, path, "restore it from a copy, or train again")
    path.write_text(original)
    assert evaluate(RunFolder(run.path).load_model(), dataset.split("test")) == before


def test_a_damaged_run_may_be_overwritten_and_nothing_else(dataset, finished, tmp_path):
    run = RunFolder(shutil.copytree(finished, tmp_path / "run"))
    path = run.path / "config.json"
    edited(path, lambda settings: settings["training"].update(seed=9))
    with pytest.raises(ValueError, match=r"config\.json .*--overwrite"):
        train(dataset, config(), run.path)
    assert weights(train(dataset, config(), run.path, overwrite=True)) == weights(run)
    path.write_text(path.read_text()[:-5])  # whose it is cannot be told
    with pytest.raises(ValueError, match=r"config\.json is not JSON.*choose another output$"):
        train(dataset, config(), run.path, overwrite=True)


@pytest.mark.parametrize("stands", ["does not exist", "is a folder", "is a symbolic link to gone"])
def test_a_model_that_is_no_file_any_more_is_named(dataset, finished, tmp_path, robe, stands):
    run = shutil.copytree(finished, tmp_path / "run")
    model = run / "model.safetensors"
    model.unlink()
    if stands == "is a folder":
        model.mkdir()
    elif "link" in stands:
        model.symlink_to("gone")
    words = f"{model} {stands}", "restore it from a copy, or train again"
    assert_refused(robe("evaluate", run, dataset.path), *words)
    if "link" not in stands:  # which is refused as one
        assert_refused(robe("train", dataset.path, "-o", run, "--resume"), *words)


def test_a_run_of_an_earlier_version_is_scored_with_a_word_of_warning(
    dataset, finished, tmp_path, robe
):
    status, expected = robe("evaluate", finished, dataset.path)
    assert status == 0
    folder = shutil.copytree(finished, tmp_path / "run")
    as_earlier_version(folder)
    status, text = robe("evaluate", folder, dataset.path)
    assert status == 0
    warning, result = text.splitlines()
    assert "kept no digests" in warning
    assert result == expected.strip()


def test_a_run_of_an_earlier_version_goes_on_and_has_digests(dataset, unfinished, tmp_path):
    folder = shutil.copytree(unfinished, tmp_path / "run")
    as_earlier_version(folder)
    run = train(dataset, config(), folder, resume=True)
    unstopped = train(dataset, config(), tmp_path / "unstopped")
    assert weights(run) == weights(unstopped)
    assert records(run) == records(unstopped)
    run = RunFolder(folder)
    assert run.has_digests
    assert run.config["digests"]["models"] == unstopped.config["digests"]["models"]
    run.load_model()


def test_a_run_that_later_rules_would_refuse_is_scored(dataset, tmp_path):
    """Earlier versions noted a sign for kinds that have none, and lacked some settings."""
    run = train(dataset, config("full"), tmp_path / "run")
    expected = evaluate(run.load_model(), dataset.split("test"))
    as_earlier_version(run.path)

    def change(settings):
        settings["training"]["sign"] = False
        del settings["training"]["patience"], settings["training"]["block_state"]

    edited(run.path / "config.json", change)
    assert evaluate(RunFolder(run.path).load_model(), dataset.split("test")) == expected


def test_digests_cannot_be_taken_away_unnoticed(finished, tmp_path):
    run = RunFolder(shutil.copytree(finished, tmp_path / "run"))
    edited(run.path / "config.json", lambda settings: settings.pop("digests"))
    with pytest.raises(ValueError, match=r"config\.json .* lacks digests"):
        RunFolder(run.path)


def test_models_of_elsewhere_are_loaded_without_digests(dataset, tmp_path):
    settings = config().resolved()
    model = build_model(dataset, settings, training_vocabulary(dataset, settings))
    save_weights(model, tmp_path / "weights.safetensors")
    shape, embedding = model.config.to_dict(), model.embedding.describe()
    path = tmp_path / "weights.safetensors"
    loaded = model_from_weights(path, read_weights(path), shape, embedding, None, "cpu")
    for name, array in model.parameters().items():
        np.testing.assert_array_equal(loaded.parameters()[name], array)


def test_a_model_is_known_at_every_moment_of_a_run(dataset, tmp_path, monkeypatch):
    """Stopped dead before each change of the folder, in training and after resuming."""
    settings = config(evaluation_steps=3)
    stop = stopped(dataset, settings, tmp_path / "stopped", 4, checkpoint_seconds=0).path
    models = set()
    for start, resume in ((None, False), (stop, True)):
        for calls in range(200):
            folder = tmp_path / f"{resume}-{calls}"
            if start:
                shutil.copytree(start, folder)
            with monkeypatch.context() as patch:
                die_at_call(patch, calls, ("rename", "unlink", "replace", "mkdir"))
                try:
                    train(dataset, settings, folder, resume=resume)
                    ended = True
                except SystemExit:
                    ended = False
            if (folder / "config.json").exists():
                run = RunFolder(folder)
                run.check_model()
                models |= {weights(run)} if run.has_model else set()
            shutil.rmtree(folder, ignore_errors=True)
            if ended:
                break
        assert ended
        assert calls > 10
    assert len(models) > 1  # of more than one evaluation


def test_the_process_that_trains_may_replace_the_model_while_another_loads_it(
    dataset, finished, tmp_path
):
    """Opened before an improvement of the model, loaded after it."""
    run = RunFolder(shutil.copytree(finished, tmp_path / "run"))
    training = RunFolder(run.path)
    other = train(dataset, config(lr=0.05), tmp_path / "other")
    training.save_model(other.load_model())
    assert weights(run) == weights(other)
    test = dataset.split("test")
    assert evaluate(run.load_model(), test) == evaluate(other.load_model(), test)


VALUES = [None, True, 0, -1, 1.0, 1.5, 2**70, 10**400, "", "x", [], [[]], [1], {}, {"a": 1},
          float("nan"), "DEEP"]  # fmt: skip
DEEP = "[" * 100_000 + "]" * 100_000


def damages(value):
    """A JSON text with each key removed, added or renamed, and each value replaced, everywhere."""

    def texts(inner):
        yield json.dumps(value).replace('"DEEP"', DEEP)
        if isinstance(inner, dict):
            inner["unknown"] = 1
            yield json.dumps(value)
            del inner["unknown"]
        for key in list(inner) if isinstance(inner, dict) else range(len(inner[:2])):
            kept = inner[key]
            for other in VALUES:
                inner[key] = other
                yield json.dumps(value).replace('"DEEP"', DEEP)
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
    yield from (b"\xff" + whole, whole[:50] + b"\xfe" + whole[50:], b"null", b"[]", DEEP.encode())


def use(folder):
    """Everything that reads a run."""
    run = RunFolder(folder)
    run.load_model()
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
    for number, line in enumerate(lines):
        for text in damages(json.loads(line)):
            changed = [*lines[:number], text, *lines[number + 1 :]]
            path.write_bytes(b"\n".join(changed) + b"\n")
            message = refusal(use, in_sweep)
            assert message is None or "metrics.jsonl is damaged" in message


def test_a_damaged_state_is_an_error_that_names_it(dataset, unfinished, tmp_path):
    """With its digest made anew, so that the damage itself is what is found."""
    run = RunFolder(shutil.copytree(unfinished, tmp_path / "run"))
    settings = config().resolved()
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


@pytest.mark.parametrize("damage", [b"[" * 10**5, b"\xff\xfe{}", b"{", b"[]", b'{"format": 1}'])
@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl"])
def test_commands_refuse_damaged_json_in_one_sentence(
    dataset, finished, tmp_path, robe, name, damage
):
    folder = shutil.copytree(finished, tmp_path / "sweep" / "runs" / "one")
    (folder / name).write_bytes(damage + b"\n")
    sweep = ("sweep", dataset.path, "-o", tmp_path / "sweep")
    resume = ("train", dataset.path, "-o", folder, "--resume")
    for command in (sweep, resume):
        assert_refused(robe(*command), folder / name)
    if name == "config.json":
        assert_refused(robe("evaluate", folder, dataset.path), folder / name)


def test_a_damaged_metrics_file_does_not_keep_a_run_from_going_on(dataset, unfinished, tmp_path):
    folder = shutil.copytree(unfinished, tmp_path / "run")
    (folder / "metrics.jsonl").write_bytes(b"\xff{}\n{]\n")
    run = train(dataset, config(), folder, resume=True)
    unstopped = train(dataset, config(), tmp_path / "unstopped")
    assert weights(run) == weights(unstopped)
    assert records(run) == records(unstopped)


def test_a_shape_that_no_memory_holds_is_refused_before_it_is_made(dataset, finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "run")
    as_earlier_version(folder)
    edited(folder / "config.json", lambda settings: settings["model"].update(bottom=[10**12]))
    with pytest.raises(ValueError, match=r"model\.safetensors does not hold .*bottom"):
        RunFolder(folder).load_model()


LINKS = ["metrics.jsonl", "model.safetensors", "report.html", "checkpoints", "mlperf.log",
         "tensorboard", "config.json"]  # fmt: skip


@pytest.mark.parametrize("name", LINKS)
def test_a_link_among_the_files_of_a_run_is_refused(dataset, unfinished, tmp_path, robe, name):
    folder = shutil.copytree(unfinished, tmp_path / "run")
    target = tmp_path / "elsewhere"
    target.mkdir()
    there = folder / name
    if there.is_dir() or there.exists():
        shutil.move(there, target / name)
    elif name == "tensorboard":
        (target / name).mkdir()
    else:
        (target / name).write_text("mine\n")
    there.symlink_to(target / name)

    def contents():
        return {path: path.read_bytes() for path in target.rglob("*") if path.is_file()}

    before = contents()
    for options in (("--resume",), ("--overwrite", "--compression", "20")):
        result = robe("train", dataset.path, "-o", folder, "--log", "mlperf", *options)
        assert_refused(result, there, "is a symbolic link", "remove the link")
    assert contents() == before
    assert there.is_symlink()


def test_the_folder_of_a_run_may_be_a_link(dataset, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "elsewhere")
    run = train(dataset, config(), tmp_path / "run")
    assert weights(run) == weights(train(dataset, config(), tmp_path / "run", overwrite=True))
    assert (tmp_path / "elsewhere" / "model.safetensors").is_file()


def test_a_link_under_a_temporary_name_is_not_followed(dataset, tmp_path):
    (tmp_path / "mine").write_text("mine")
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("config.json", "metrics.jsonl", "model.safetensors"):
        (folder / f".{name}.{os.getpid()}.tmp").symlink_to(tmp_path / "mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "kept").write_text("mine")
    (folder / ".checkpoints.tmp").symlink_to(tmp_path / "folder")
    train(dataset, config(), folder)
    assert (tmp_path / "mine").read_text() == "mine"
    assert (tmp_path / "folder" / "kept").read_text() == "mine"


@pytest.mark.parametrize("name", ["runs", "table.md", "results.json", "report.html", "memory.png"])
def test_a_link_among_the_files_of_a_sweep_is_refused(dataset, tmp_path, robe, name):
    output, target = tmp_path / "sweep", tmp_path / "mine"
    (output / "runs").mkdir(parents=True)
    if name == "runs":
        (output / "runs").rename(target)
    else:
        target.write_text("mine")
    (output / name).symlink_to(target)
    result = robe("sweep", dataset.path, "num_parameters=3000", "-o", output)
    assert_refused(result, output / name, "is a symbolic link")
    assert list(target.iterdir()) == [] if name == "runs" else target.read_text() == "mine"
