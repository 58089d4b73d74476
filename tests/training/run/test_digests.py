"""A run whose model or settings were changed is refused by its digests, and never scored wrong."""

import copy
import json
import shutil

import numpy as np
import pytest

from robe_numba.training import RunFolder, build_model, evaluate, train, training_vocabulary
from robe_numba.training.run.weights import model_from_weights, read_weights, save_weights
from tests.support.commands import assert_refused
from tests.training.runs import (
    as_earlier_version,
    die_at_call,
    edited,
    records,
    small_config,
    stopped,
    weights,
)


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
    [
        ("training", "seed", 1),
        ("spec", "hash", "paper"),
        ("dataset", "dense_transform", "none"),
    ],
)
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
        train(dataset, small_config(), run.path)
    assert weights(train(dataset, small_config(), run.path, overwrite=True)) == weights(run)
    path.write_text(path.read_text()[:-5])  # whose it is cannot be told
    with pytest.raises(ValueError, match=r"config\.json is not JSON.*choose another output$"):
        train(dataset, small_config(), run.path, overwrite=True)


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
    run = train(dataset, small_config(), folder, resume=True)
    unstopped = train(dataset, small_config(), tmp_path / "unstopped")
    assert weights(run) == weights(unstopped)
    assert records(run) == records(unstopped)
    run = RunFolder(folder)
    assert run.has_digests
    assert run.config["digests"]["models"] == unstopped.config["digests"]["models"]
    run.load_model()


def test_a_run_that_later_rules_would_refuse_is_scored(dataset, tmp_path):
    """Earlier versions noted a sign for kinds that have none, and lacked some settings."""
    run = train(dataset, small_config("full"), tmp_path / "run")
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
    settings = small_config().resolved()
    model = build_model(dataset, settings, training_vocabulary(dataset, settings))
    save_weights(model, tmp_path / "weights.safetensors")
    shape, embedding = model.config.to_dict(), model.embedding.describe()
    path = tmp_path / "weights.safetensors"
    loaded = model_from_weights(path, read_weights(path), shape, embedding, None, "cpu")
    for name, array in model.parameters().items():
        np.testing.assert_array_equal(loaded.parameters()[name], array)


def test_a_model_is_known_at_every_moment_of_a_run(dataset, tmp_path, monkeypatch):
    """Stopped dead before each change of the folder, in training and after resuming."""
    settings = small_config(evaluation_steps=3)
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
    other = train(dataset, small_config(lr=0.05), tmp_path / "other")
    training.save_model(other.load_model())
    assert weights(run) == weights(other)
    test = dataset.split("test")
    assert evaluate(run.load_model(), test) == evaluate(other.load_model(), test)
