"""Operators under `opcheck`, modules under `torch.compile` and `torch.export`."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.export import Dim, export

import robe_numba.torch as rt
from robe_numba import RobeSpec

ROOT = Path(__file__).parents[2]
OPTIMIZERS = {"dense": None, "sgd": rt.FusedSGD(0.1), "adagrad": rt.FusedAdagrad(0.1)}


class Everything(nn.Module):
    """Each module, in each of its ways, on one array."""

    def __init__(self, optimizer=None):
        super().__init__()
        array = rt.RobeArray(101, scale=1, optimizer=optimizer)
        self.rows = rt.RobeEmbedding(20, 6, padding_idx=2, array=array)
        self.mean = rt.RobeEmbeddingBag(20, 6, array=array)
        self.sum = rt.RobeEmbeddingBag(20, 6, mode="sum", array=array, include_last_offset=True)
        self.tables = rt.RobeTables(2, 6, array=array)
        self.array = array

    def forward(self, ids, values, offsets, weights):
        pooled = self.sum(values, offsets, weights), self.mean(values, offsets[:-1])
        ends = torch.cat([offsets, offsets[1:] + offsets[-1]])
        several = self.tables.bags(torch.cat([values, values]), ends)
        parts = [*pooled, self.mean(ids), several.sum(1), self.tables(ids).sum(1)]
        # Equal calls with equal gradients are still two uses of the array.
        return sum(parts) + self.rows(ids).sum(1) + self.rows(ids).sum(1)


def batch(size):
    torch.manual_seed(size)
    lengths = torch.randint(0, 4, (size,))
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    count = int(offsets[-1])
    weights = torch.randn(count, requires_grad=True)
    return torch.randint(20, (size, 2)), torch.randint(20, (count,)), offsets, weights


# Inductor itself uses `torch.jit`.
@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_one_graph_serves_all_batch_sizes(name):
    torch._dynamo.reset()
    # One of them with the default backend, which takes seconds.
    backend = "inductor" if name == "adagrad" else "aot_eager"
    eager = Everything(OPTIMIZERS[name])
    model = copy.deepcopy(eager)
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=backend)
    before = eager.array.weight.detach().clone()
    for size in (7, 12, 5):
        given = batch(size)
        weights = given[3].detach().clone().requires_grad_()
        expected = eager(*given)
        with torch.compiler.set_stance("default" if size == 7 else "fail_on_recompile"):
            out = compiled(*given[:3], weights)
            torch.testing.assert_close(out, expected)
            out.square().mean().backward()
        expected.square().mean().backward()
        torch.testing.assert_close(weights.grad, given[3].grad)
        torch.testing.assert_close(model.array.state_dict(), eager.array.state_dict())
        torch.testing.assert_close(model.array.weight.grad, eager.array.weight.grad)
    moved = not torch.equal(eager.array.weight, before)
    assert moved == (name != "dense")
    assert (eager.array.weight.grad is None) == moved


def test_compiled_autograd_gives_dense_gradients_and_refuses_steps():
    given = batch(7)
    dense, fused = Everything(), Everything(rt.FusedSGD(0.1))
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend="eager")):
        dense(*given).sum().backward()
        with pytest.raises(RuntimeError, match="compiled autograd does not say when"):
            fused(*given).sum().backward()
    again = copy.deepcopy(dense)
    again.zero_grad()
    again(*given).sum().backward()
    torch.testing.assert_close(dense.array.weight.grad, again.array.weight.grad)


def test_a_compiled_scorer_follows_the_array():
    torch._dynamo.reset()
    model = Everything().eval()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    with torch.no_grad():
        for size in (3, 4):
            given = batch(size)
            torch.testing.assert_close(compiled(*given), model(*given))
            model.array.weight.mul_(-2)


LOAD = """
import sys, torch, robe_numba.torch
model = torch.export.load(sys.argv[1]).module()
given, expected, gradient = torch.load(sys.argv[2])
out = model(*given)
torch.testing.assert_close(out, expected)
out.sum().backward()
torch.testing.assert_close(model.array.weight.grad, gradient)
"""


def test_an_exported_model_runs_in_another_process(tmp_path):
    model = Everything()
    rows, count = Dim("rows", min=1), Dim("count", min=1)
    shapes = ({0: rows}, {0: count}, {0: rows + 1}, {0: count})
    program = export(model, batch(7), dynamic_shapes=shapes)
    torch.export.save(program, tmp_path / "model.pt2")
    given = batch(11)
    expected = model(*given)
    expected.sum().backward()
    gradient = model.array.weight.grad
    torch.save((given, expected.detach(), gradient), tmp_path / "batch.pt")
    files = [tmp_path / "model.pt2", tmp_path / "batch.pt"]
    subprocess.run([sys.executable, "-c", LOAD, *files], cwd=ROOT, check=True)


def test_an_exported_model_takes_no_steps():
    """It may run where its array is another."""
    model = nn.Sequential(rt.RobeEmbedding(20, 6, optimizer=rt.FusedSGD(0.1)), nn.Linear(6, 1))
    ids = torch.arange(5)
    program = export(model, (ids,)).module()
    before = model[0].array.weight.detach().clone()
    out = program(ids)
    torch.testing.assert_close(out, model(ids))
    out.sum().backward()
    assert torch.equal(model[0].array.weight, before)


SPEC = RobeSpec(17, 2, 5, 1, (9,), sign=True).to_json()
TWO = RobeSpec(17, 2, 5, 2).to_json()
ROWS = torch.tensor([[1, 8, 3], [3, 3, 0]])
IDS = torch.tensor([1, 8, 3, 3, 0])
OFFSETS, OF_TWO = torch.tensor([0, 2, 2, 5]), torch.tensor([0, 1, 2, 4, 5])
NO_STARTS = torch.empty(0, dtype=torch.int64)
NOT_FUSED = (None, 0)
POOLED = (IDS, OFFSETS, None)


def real(*shape, requires_grad=False):
    return torch.randn(shape, dtype=torch.float64, requires_grad=requires_grad)


def leaf(*shape):
    return real(*shape, requires_grad=True)


CASES = {
    "lookup": [
        lambda: (leaf(17), ROWS, SPEC, None, False, *NOT_FUSED),
        lambda: (leaf(17), ROWS, SPEC, 3, True, *NOT_FUSED),
        lambda: (leaf(17), ROWS.int()[:, :2], TWO, None, True, *NOT_FUSED),
    ],
    "lookup_gradient": [lambda: (leaf(2, 3, 5), ROWS, NO_STARTS, SPEC, 3)],
    "embedding_bag": [
        lambda: (leaf(17), IDS, OFFSETS, leaf(5), SPEC, "sum", None, True, *NOT_FUSED),
        lambda: (leaf(17), *POOLED, SPEC, "mean", 3, True, *NOT_FUSED),
        lambda: (leaf(17), *POOLED, SPEC, "max", 3, False, *NOT_FUSED),
        lambda: (leaf(17), IDS, OF_TWO, None, TWO, "sum", None, False, *NOT_FUSED),
    ],
    "embedding_bag_gradient": [
        lambda: (real(17), real(3, 1, 5), *POOLED, NO_STARTS, SPEC, "max", None),
        lambda: (None, real(3, 1, 5), *POOLED, NO_STARTS, SPEC, "mean", 3),
    ],
    "embedding_bag_weights_gradient": [
        lambda: (real(17), real(3, 1, 5), IDS, OFFSETS, SPEC, 3),
    ],
}
# They hand over a gradient within a backward pass, so they are checked with the pass.
WITHIN_BACKWARD = {"lookup": "collect_lookup", "embedding_bag": "collect_embedding_bag"}


def test_every_operator_is_checked():
    names = torch._C._dispatch_get_all_op_names()
    registered = {name for name in names if name.startswith("robe_numba::")}
    assert registered == {f"robe_numba::{name}" for name in (*CASES, *WITHIN_BACKWARD.values())}


@pytest.mark.parametrize("name", CASES)
def test_operators(name):
    operator = getattr(torch.ops.robe_numba, name).default
    for arguments in CASES[name]:
        torch.library.opcheck(operator, arguments())


@pytest.mark.parametrize("name", WITHIN_BACKWARD)
def test_operators_of_fused_arrays(name):
    array = rt.RobeArray(17, dtype=torch.float64, optimizer=rt.FusedSGD(0.1))
    operator = getattr(torch.ops.robe_numba, name).default
    # Without that of compiled graphs, which asks for a gradient of the anchor; see above for these.
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    for arguments in CASES[name]:
        given = (array.weight, *arguments()[1:-2], array.anchor, 0)
        torch.library.opcheck(operator, given, test_utils=checks)


def test_models_of_one_class_share_a_compiled_graph():
    """torch gives up on a function that it has compiled eight times."""
    ids = torch.tensor([1, 8, 3])
    for _ in range(10):
        module = rt.RobeEmbedding(9, 5, optimizer=rt.FusedSGD(1.0))
        before = module.array.weight.detach().clone()
        torch.compile(module, fullgraph=True, backend="aot_eager")(ids).sum().backward()
        assert not torch.equal(module.array.weight, before)
