"""Steps of many modules that share an array, which the kernels take at once where they can."""

import numpy as np
import pytest
import torch

import robe_numba.torch as rt
from robe_numba.torch import fused

TABLES, BATCH = 5, 17
OPTIMIZERS = {
    "sgd": (rt.FusedSGD, torch.optim.SGD),
    "adagrad": (rt.FusedAdagrad, torch.optim.Adagrad),
}


def modules_of(kind, optimizer=None, dims=(10,) * TABLES, **options):
    """Modules that read one array and differ in their hash alone, unless their dims differ."""
    torch.manual_seed(0)
    array = rt.RobeArray(997, scale=1, dtype=torch.float64, optimizer=optimizer)
    modules = [
        rt.RobeEmbedding(50, d, array=array, **options)
        if kind == "rows"
        else rt.RobeEmbeddingBag(50, d, mode=kind.split()[-1], array=array, **options)
        for d in dims
    ]
    return array, modules


def loss_of(modules, kind, seed):
    """A loss of random ids; bags have different sizes, and some none."""
    draw, total = np.random.default_rng(seed), 0
    for t, module in enumerate(modules):
        ids = torch.from_numpy(draw.integers(0, 50, 40 + t))
        arguments = (ids[:BATCH],)
        if kind != "rows":
            begins = np.sort(np.append(draw.integers(0, 40, BATCH - 1), 0))
            arguments = ids, torch.from_numpy(begins)
        if kind.startswith("weighted"):
            arguments = (*arguments, torch.from_numpy(draw.normal(size=len(ids))))
        total = total + module(*arguments).square().sum()
    return total


@pytest.mark.parametrize("options", [{}, {"block_size": 4, "alignment": 2, "padding_idx": 3}])
@pytest.mark.parametrize("dims", [(10,) * TABLES, (10, 10, 6, 10, 6)], ids=["alike", "two dims"])
@pytest.mark.parametrize("kind", ["rows", "sum", "weighted sum", "mean", "max"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_modules_that_share_an_array_step_as_torch_does(name, kind, dims, options):
    make_fused, make_dense = OPTIMIZERS[name]
    array, modules = modules_of(kind, make_fused(0.1), dims, **options)
    expected, readers = modules_of(kind, None, dims, **options)
    optimizer = make_dense(expected.parameters(), lr=0.1)
    for step in range(3):
        loss_of(modules, kind, step).backward()
        optimizer.zero_grad()
        loss_of(readers, kind, step).backward()
        optimizer.step()
    torch.testing.assert_close(array.weight, expected.weight)


@pytest.mark.parametrize("kind", ["rows", "mean"])
def test_adagrad_for_many_modules_makes_no_dense_gradient(kind, monkeypatch):
    def refuse(*arguments):
        raise AssertionError("a gradient of the whole array")

    _, modules = modules_of(kind, rt.FusedAdagrad(0.1))
    monkeypatch.setattr(fused, "_add_gradient", refuse)
    loss_of(modules, kind, 0).backward()
    _, modules = modules_of(kind, rt.FusedAdagrad(0.1), (10, 6))
    with pytest.raises(AssertionError, match="whole array"):  # what the test would notice
        loss_of(modules, kind, 0).backward()
