"""Saving, loading, copying and converting modules."""

import copy
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

import robe_numba.torch as rt
from tests.kernels.test_starts import UMA_GOLDEN, UMA_PLACES
from tests.torch.twins import table_of

ROOT = Path(__file__).parents[2]
IDS = torch.tensor([[1, 8, 3], [3, 3, 0]])
SIZE = (9, 5)
MAKE = {
    "rows": lambda **options: rt.RobeEmbedding(*SIZE, padding_idx=3, array_size=17, **options),
    "bags": lambda **options: rt.RobeEmbeddingBag(*SIZE, array_size=17, **options),
    "tables": lambda **options: rt.RobeTables(3, 5, (9, 10, 11), array_size=17, **options),
}


FUSED = [pytest.param(kind(0.1), id=kind.__name__) for kind in (rt.FusedSGD, rt.FusedAdagrad)]


@pytest.fixture(params=MAKE)
def make(request):
    return MAKE[request.param]


class Model(nn.Module):
    """Two readers of one array, and a layer."""

    def __init__(self, optimizer=None):
        super().__init__()
        array = rt.RobeArray(17, optimizer=optimizer)
        self.rows = rt.RobeEmbedding(*SIZE, array=array)
        self.bags = rt.RobeEmbeddingBag(*SIZE, array=array)
        self.head = nn.Linear(5, 1)

    def forward(self, ids):
        return self.head(self.rows(ids).sum(1) + self.bags(ids))


def trained(optimizer=None):
    """After a step."""
    model = Model(optimizer)
    model(IDS).sum().backward()
    return model


def test_a_state_gives_the_same_outputs(make):
    saved, loaded = make(), make()
    assert not torch.equal(saved(IDS), loaded(IDS))
    loaded.load_state_dict(saved.state_dict())
    assert torch.equal(saved(IDS), loaded(IDS))


@pytest.mark.parametrize(
    "options", [{"seed": 5}, {"block_size": 2}, {"sign": False}, {"hash": "paper"}], ids=str
)
def test_a_state_of_another_spec_is_refused(make, options):
    saved, other = make(), make(**options)
    before = other.array.weight.detach().clone()
    with pytest.raises(ValueError, match="make the module with the arguments of the saved one"):
        other.load_state_dict(saved.state_dict())
    assert torch.equal(other.array.weight, before)


def test_a_state_of_another_size_is_refused(make):
    saved = make()
    other = rt.RobeEmbedding(*SIZE, array_size=18)
    before = other.array.weight.detach().clone()
    with pytest.raises(ValueError, match="the state is that of RobeSpec"):
        other.load_state_dict(saved.state_dict())
    assert torch.equal(other.array.weight, before)


LOAD = """
import sys, torch
from tests.torch.test_state import IDS, Model, rt
optimizer = rt.FusedAdagrad(0.1)
model = Model(optimizer)
state, expected, after = torch.load(sys.argv[1], weights_only=True)
model.load_state_dict(state)
out = model(IDS)
assert torch.equal(out, expected)
out.sum().backward()
assert torch.equal(model.rows.array.weight, after)
"""


def test_a_state_is_loaded_in_another_process(tmp_path):
    """It includes the optimizer's sums, so training continues with the same bits."""
    model = trained(rt.FusedAdagrad(0.1))
    state, out = copy.deepcopy(model.state_dict()), model(IDS)
    out.sum().backward()
    torch.save((state, out.detach(), model.rows.array.weight), tmp_path / "state.pt")
    command = [sys.executable, "-c", LOAD, tmp_path / "state.pt"]
    subprocess.run(command, cwd=ROOT, check=True)


def with_pickle(model):
    return pickle.loads(pickle.dumps(model))


@pytest.mark.parametrize("optimizer", [None, *FUSED])
@pytest.mark.parametrize("copied", [copy.deepcopy, with_pickle])
def test_copies_share_an_array_among_themselves_alone(copied, optimizer):
    model = trained(optimizer)
    other = copied(model)
    assert other.rows.array is other.bags.array
    assert other.rows.array is not model.rows.array
    assert torch.equal(other(IDS), model(IDS))
    before = model.rows.array.weight.detach().clone()
    other(IDS).sum().backward()
    with torch.no_grad():
        other.rows.array.weight.sub_(1)
    assert torch.equal(model.rows.array.weight, before)
    assert (optimizer is None) == (other.rows.array.weight.grad is not None)


@pytest.mark.parametrize("optimizer", FUSED)
def test_copies_step_on_their_own(optimizer):
    model = trained(optimizer)
    plain = copy.deepcopy(model)
    with model.rows.array.optimizer.no_step():
        model(IDS).sum().backward()
    other = copy.deepcopy(model)  # without what was collected
    for each in (plain, other, model):
        each(IDS).sum().backward()
    assert torch.equal(other.rows.array.weight, plain.rows.array.weight)
    assert not torch.equal(model.rows.array.weight, plain.rows.array.weight)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("name", ["rows", "bags"])
def test_other_dtypes_score_as_torch_does(name, dtype):
    ours = MAKE[name](scale=1).to(dtype)
    kind = nn.Embedding if name == "rows" else nn.EmbeddingBag
    theirs = kind(*SIZE, padding_idx=ours.padding_idx).to(dtype)
    with torch.no_grad():
        theirs.weight.copy_(table_of(ours, ours.array.weight))
        torch.testing.assert_close(ours(IDS), theirs(IDS))


def test_tables_of_other_dtypes():
    tables = MAKE["tables"](scale=1)
    exact = tables(IDS)
    for dtype in (torch.float16, torch.bfloat16):
        out = copy.deepcopy(tables).to(dtype)(IDS)
        assert torch.equal(out, exact.to(dtype))


def test_gradients_of_halves_are_halves():
    module = MAKE["rows"](scale=1).to(torch.bfloat16)
    module(IDS).sum().backward()
    assert module.array.weight.grad.dtype == torch.bfloat16
    double = MAKE["rows"](scale=1)
    double(IDS).sum().backward()
    torch.testing.assert_close(module.array.weight.grad.float(), double.array.weight.grad)


def test_sums_of_squares_follow_the_dtype():
    model = Model(rt.FusedAdagrad(0.1)).double()
    model(IDS).sum().backward()
    assert model.rows.array.state_sum.dtype == torch.float64
    assert model.rows.array.state_sum.any()


def test_safetensors_hold_a_state(make, tmp_path):
    saved, loaded = make(optimizer=rt.FusedAdagrad(0.1)), make(optimizer=rt.FusedAdagrad(0.1))
    saved(IDS).sum().backward()
    safetensors.torch.save_file(saved.state_dict(), tmp_path / "state.safetensors")
    loaded.load_state_dict(safetensors.torch.load_file(tmp_path / "state.safetensors"))
    assert torch.equal(saved(IDS), loaded(IDS))
    assert torch.equal(saved.array.state_sum, loaded.array.state_sum)


def test_safetensors_hold_a_model_with_a_shared_array(tmp_path):
    saved, loaded = Model(), Model()
    safetensors.torch.save_model(saved, tmp_path / "model.safetensors")
    safetensors.torch.load_model(loaded, tmp_path / "model.safetensors")
    assert torch.equal(saved(IDS), loaded(IDS))


def test_arrays_of_the_authors_release():
    """Read at the places that their code gives for its default seed."""
    values = torch.zeros(27_000_000)
    marks = {place: i + 1.0 for i, place in enumerate(sum(UMA_GOLDEN.values(), ()))}
    values[list(marks)] = torch.tensor(list(marks.values()))
    array = rt.RobeArray.from_tensor(values)
    for block_size, golden in UMA_GOLDEN.items():
        module = rt.RobeEmbedding(20_000_000, 128, array=array, hash="uma", block_size=block_size)
        for (row, element), place in zip(UMA_PLACES, golden, strict=True):
            assert module(torch.tensor(row))[element] == marks[place]
