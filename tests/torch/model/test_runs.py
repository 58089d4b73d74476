"""Runs of `robe train` as torch modules, and back."""

from dataclasses import replace

import numpy as np
import pytest
import safetensors.numpy
import torch
from torch import nn

import robe_numba.torch as rt
from robe_numba.dlrm.config import init_parameters
from robe_numba.spec import RobeSpec
from robe_numba.training import RunFolder, train
from tests.dlrm.test_model import TINY, batch_of
from tests.support import naive
from tests.training.list_logs import make_dataset
from tests.training.runs import small_config


@pytest.fixture(scope="module")
def runs(dataset, tmp_path_factory):
    """Runs of several kinds, by what is special about them."""
    folder = tmp_path_factory.mktemp("runs")
    configs = {
        "robe": small_config(),
        "wide": small_config(top=(16, 8)),
        "hashed": small_config("hashed"),
        "full": small_config("full"),
    }
    return {name: train(dataset, each, folder / name).path for name, each in configs.items()}


@pytest.fixture(scope="module")
def rows():
    generator = np.random.default_rng(3)
    dense = generator.standard_normal((64, 13)).astype(np.float32)
    return dense, generator.integers(0, 2**32, (64, 26), dtype=np.uint32)


def test_runs_with_lists_of_ids_are_refused(tmp_path):
    dataset = make_dataset(tmp_path)
    run = train(dataset, small_config(compression=5), tmp_path / "run")
    with pytest.raises(ValueError, match=r"has multi-hot features .* but RobeDLRM takes one id"):
        rt.load_run(run.path)
    tables = rt.RobeTables.from_spec(RobeSpec(80, 3, 4, 3), rt.RobeArray(80))
    with pytest.raises(ValueError, match="config has 1 multi-hot features, and RobeDLRM takes"):
        rt.RobeDLRM(replace(TINY, pooling=("sum",)), tables)


def tensors(rows):
    dense, ids = rows
    return torch.from_numpy(dense), torch.from_numpy(ids.astype(np.int64))


@pytest.mark.parametrize("name", ["robe", "wide", "hashed"])
def test_a_loaded_run_gives_its_logits(runs, rows, name):
    model = rt.load_run(runs[name])
    expected = RunFolder(runs[name]).load_model().logits(*rows)
    with torch.no_grad():
        logits = model(*tensors(rows))
    assert logits.shape == (64,)
    np.testing.assert_allclose(logits.numpy(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("interaction", ["dot", "cat", "dcn"])
def test_logits_are_those_of_the_oracle(interaction):
    config = replace(TINY, interaction=interaction)
    tables = rt.RobeTables(config.num_tables, config.embedding_dim, array_size=50, scale=1)
    model = rt.RobeDLRM(config, tables).double()
    parameters = init_parameters(config, np.random.default_rng(1), np.float64)
    layers = [layer for layer in (*model.bottom, *model.top) if isinstance(layer, nn.Linear)]
    layers += model.cross
    with torch.no_grad():
        made = (parameter for layer in layers for parameter in layer.parameters())
        for parameter, value in zip(made, parameters.values(), strict=True):
            parameter.copy_(torch.from_numpy(value))
    dense, ids, _ = batch_of(20, np.float64, config)
    rows = naive.lookup(tables.array.weight.detach().numpy(), ids, tables.spec)
    expected = naive.dlrm_logits(parameters, rows, dense, interaction)
    logits = model(torch.from_numpy(dense), torch.from_numpy(ids.astype(np.int64)))
    np.testing.assert_allclose(logits.detach().numpy(), expected)


def test_tables_without_hashing_are_refused(runs):
    with pytest.raises(ValueError, match="embedding 'full'; only runs with robe or hashed"):
        rt.load_run(runs["full"])


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="not the folder of a run"):
        rt.load_run(tmp_path)


def test_an_unchanged_model_is_saved_as_it_was(runs, tmp_path):
    rt.save_run(rt.load_run(runs["robe"]), runs["robe"], tmp_path / "copy")
    files = [folder / "model.safetensors" for folder in (runs["robe"], tmp_path / "copy")]
    first, second = map(safetensors.numpy.load_file, files)
    assert first.keys() == second.keys()
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name])


def test_a_model_that_was_trained_further_is_read_by_robe(runs, rows, dataset, tmp_path, robe):
    model = rt.load_run(runs["robe"])
    dense, ids = tensors(rows)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(model(dense, ids), torch.ones(64)).backward()
        optimizer.step()
    rt.save_run(model, runs["robe"], tmp_path / "tuned")
    scored = RunFolder(tmp_path / "tuned").load_model().logits(*rows)
    np.testing.assert_allclose(model(dense, ids).detach().numpy(), scored, rtol=0, atol=1e-5)
    outputs = []
    for run in (runs["robe"], tmp_path / "tuned"):
        status, output = robe("evaluate", run, dataset.path)
        assert status == 0, output
        outputs.append(output)
    assert outputs[0] != outputs[1]
    assert "AUC" in outputs[1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_other_dtypes_are_saved_as_float32(runs, rows, tmp_path, dtype):
    model = rt.load_run(runs["robe"]).to(dtype)
    rt.save_run(model, runs["robe"], tmp_path / "copy")
    saved = rt.load_run(tmp_path / "copy")
    for name, values in model.float().state_dict().items():
        assert torch.equal(saved.state_dict()[name], values)


def test_nothing_is_saved_over_a_folder_or_as_a_run_of_another_shape(runs, tmp_path):
    model = rt.load_run(runs["robe"])
    before = (runs["wide"] / "model.safetensors").read_bytes()
    with pytest.raises(FileExistsError):
        rt.save_run(model, runs["robe"], runs["wide"])
    assert (runs["wide"] / "model.safetensors").read_bytes() == before
    with pytest.raises(ValueError, match="top"):
        rt.save_run(model, runs["wide"], tmp_path / "new")
    assert not (tmp_path / "new").exists()
