"""Names of runs, and runs that are replaced while they are loaded."""

import json
import shutil

import numpy as np
import pytest

from tests.serving.servers import rows
from tests.support.needs import SERVE, need
from tests.training.runs import small_config

need(*SERVE)

from robe_numba.serving.server.models import Model, named_runs


@pytest.fixture
def folder(run, tmp_path):
    return shutil.copytree(run, tmp_path / "served")


def test_runs_are_named_by_their_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr=0.1").mkdir()
    found = named_runs([f"{tmp_path}/a/", "b=a", f"c={tmp_path}/x=y", "deep/d", "e=lr=0.1"])
    assert {name: str(path) for name, path in found.items()} == {
        "a": f"{tmp_path}/a",
        "b": "a",
        "c": f"{tmp_path}/x=y",
        "d": "deep/d",
        "e": "lr=0.1",
    }
    assert list(named_runs(["."])) == [tmp_path.name]


@pytest.mark.parametrize(
    ("runs", "words"),
    [
        (["a", "b/a"], "two runs have the name 'a': a and b/a; .* as NAME=b/a"),
        (["a b"], "the name 'a b' does not fit into a URL; .* NAME=a b"),
        (["=a"], "the name '' does not fit"),
        (["é=a"], "the name 'é' does not fit"),
        (["/"], "the name '' does not fit"),
    ],
)
def test_names_that_cannot_be_served_are_refused(runs, words):
    with pytest.raises(ValueError, match=words):
        named_runs(runs)


def reloaded(model):
    """What the second look says: the first waits until the files have settled."""
    assert model.reload() is None
    return model.reload()


def test_a_replaced_run_takes_the_place_of_the_old(folder, other_run):
    model = Model("m", folder)
    old = model.scorer
    assert reloaded(model) is None
    shutil.rmtree(folder)
    shutil.copytree(other_run, folder)
    done, line = reloaded(model)
    assert done
    assert line == f"m is reloaded: version {old.version} is now {model.scorer.version}"
    assert model.scorer.version != old.version
    dense, ids = rows(old, 9)
    assert np.abs(model.scorer(dense, ids) - old(dense, ids)).max() > 1e-4
    assert reloaded(model) is None


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("model.safetensors", lambda path: path.write_bytes(path.read_bytes()[:-1])),
        ("model.safetensors", lambda path: path.unlink()),
        ("model.safetensors", lambda path: path.write_bytes(b"\x80\x04." * 9)),
        ("config.json", lambda path: path.write_text("{")),
        ("config.json", lambda path: path.write_text(json.dumps({"format": "robe run 2"}))),
        ("config.json", lambda path: path.write_text(path.read_text().replace("0.02", "0.03"))),
        ("config.json", lambda path: shutil.rmtree(path.parent)),
    ],
)
def test_a_broken_run_is_refused_once_and_the_old_one_stays(folder, run, name, change):
    model = Model("m", folder)
    old = model.scorer
    change(folder / name)
    done, line = reloaded(model)
    assert not done
    assert line.startswith("m is not reloaded: ")
    assert line.endswith(f"version {old.version} stays")
    assert model.scorer is old
    assert reloaded(model) is None  # said once
    shutil.copytree(run, folder, dirs_exist_ok=True)
    assert reloaded(model)[0]
    assert model.scorer.version == old.version


def test_a_model_file_that_is_just_being_replaced_is_waited_for(folder):
    from robe_numba.training.run.config_file import read_config, write_config

    model = Model("m", folder)
    config = read_config(folder / "config.json")
    digest = config["digests"]["models"][0]
    config["digests"]["models"] = [digest, "0" * len(digest)]
    write_config(folder / "config.json", config)
    assert reloaded(model) is None
    config["digests"]["models"] = [digest]
    write_config(folder / "config.json", config)
    assert reloaded(model)[0]


def test_a_run_that_is_trained_anew_is_waited_for(folder, dataset):
    from robe_numba.training import Watcher, train

    model = Model("m", folder)
    old, seen = model.scorer, []

    class Look(Watcher):
        def step(self, step, loss):
            if step == 1:
                seen.append(((folder / "model.safetensors").exists(), reloaded(model)))

    train(dataset, small_config(seed=2), folder, overwrite=True, watcher=Look())
    assert seen == [(False, None)]
    assert model.scorer is old
    assert reloaded(model)[0]
    assert model.scorer.version != old.version


def test_weights_that_are_not_finite_are_refused(run, tmp_path):
    from robe_numba.training import RunFolder

    folder = shutil.copytree(run, tmp_path / "diverged")
    opened = RunFolder(folder)
    model = opened.load_model()
    for array in model.parameters().values():
        array[...] = np.nan
    opened.save_model(model)
    with pytest.raises(ValueError, match="has values that are not finite"):
        Model("m", folder)
