"""Optimizers that step during backward, against those of torch on the dense gradient."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

import robe_numba.torch as rt
from tests.torch.dense import leaf, table_of

STEPS = 50
OPTIMIZERS = {
    "sgd": (rt.FusedSGD, torch.optim.SGD),
    "adagrad": (rt.FusedAdagrad, torch.optim.Adagrad),
}
SIZE = (30, 6)
ARRAY = {"array_size": 41, "block_size": 4, "scale": 1, "dtype": torch.float64}


@pytest.fixture(params=OPTIMIZERS)
def optimizers(request):
    """A fused optimizer, and a function that makes torch's of it from parameters."""
    fused, dense = OPTIMIZERS[request.param]
    return fused(lr=0.1), lambda parameters: dense(parameters, lr=0.1)


class Model(nn.Module):
    """Several readers of one array, one of them twice, in ways whose gradients differ."""

    def __init__(self, optimizer=None):
        super().__init__()
        array = rt.RobeArray(41, scale=1, dtype=torch.float64, optimizer=optimizer)
        self.array = array
        self.rows = rt.RobeEmbedding(*SIZE, padding_idx=0, array=array, block_size=4)
        self.pooled = nn.ModuleDict(
            {
                mode: rt.RobeEmbeddingBag(*SIZE, mode=mode, array=array, block_size=4)
                for mode in ("sum", "mean", "max")
            }
        )

    def forward(self, ids, weights=None):
        pooled = [module(ids) for module in self.pooled.values()]
        weighted = self.pooled["sum"](ids, None, weights)
        return sum(pooled) + weighted + self.rows(ids).sum(1) * self.rows(ids.flip(0)).mean(1)


class Dense(nn.Module):
    """The same of the tables that a model stands for, in torch's own operations."""

    forward = Model.forward

    def __init__(self, model):
        super().__init__()
        self.array = nn.Parameter(model.array.weight.detach().clone())
        self.pooled = {mode: self._reader(module) for mode, module in model.pooled.items()}
        self._padded = [model.rows]  # in a list, it is no module of this one

    def rows(self, ids):
        return functional.embedding(ids, table_of(*self._padded, self.array))

    def _reader(self, module):
        def read(ids, offsets=None, weights=None):
            table = table_of(module, self.array)
            return functional.embedding_bag(
                ids, table, offsets, mode=module.mode, per_sample_weights=weights
            )

        return read


def copies(optimizers):
    """A model that steps by itself, its dense twin, and the latter's optimizer."""
    fused, make = optimizers
    ours = Model(fused)
    theirs = Dense(ours)
    return ours, theirs, make(theirs.parameters())


def ids_of(step, rows=8):
    return torch.randint(SIZE[0], (rows, 3), generator=torch.Generator().manual_seed(step))


def weights_of(step):
    values = torch.randn(8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
    return values.requires_grad_()


def assert_same_arrays(ours, theirs):
    torch.testing.assert_close(ours.array.weight.detach(), theirs.array.detach())


def test_steps_are_those_of_torch(optimizers):
    ours, theirs, optimizer = copies(optimizers)
    for step in range(STEPS):
        given = [weights_of(step) for _ in range(2)]
        for model, weights in zip((ours, theirs), given, strict=True):
            model(ids_of(step), weights).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        torch.testing.assert_close(given[0].grad, given[1].grad)
        assert_same_arrays(ours, theirs)
    assert ours.array.weight.grad is None


@pytest.mark.parametrize(
    "make",
    [
        lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
        lambda parameters: torch.optim.Adam(parameters, lr=0.01),
        lambda parameters: torch.optim.Adagrad(parameters, lr=0.1),
    ],
    ids=["SGD", "Adam", "Adagrad"],
)
def test_torch_optimizers_train_as_on_the_dense_formula(make):
    ours = Model()
    theirs = Dense(ours)
    optimizers = make(ours.parameters()), make(theirs.parameters())
    for step in range(STEPS):
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            model(ids_of(step), weights_of(step)).square().mean().backward()
            optimizer.step()
        assert_same_arrays(ours, theirs)


def test_two_forwards_before_one_backward(optimizers):
    ours, theirs, optimizer = copies(optimizers)
    for model in (ours, theirs):
        (model(ids_of(0)) * model(ids_of(1))).sum().backward()
    optimizer.step()
    assert_same_arrays(ours, theirs)


def test_a_part_of_the_array_without_gradient_stays(optimizers):
    ours, _, _ = copies(optimizers)
    read = table_of(ours.rows, torch.arange(41.0, dtype=torch.float64))[4].abs().long()
    before = ours.array.weight.detach().clone()
    ours.rows(torch.tensor([4, 4])).sum().backward()
    changed = (ours.array.weight != before).nonzero().flatten()
    assert set(changed.tolist()) == set(read.tolist())


def test_accumulated_gradients_are_one_step(optimizers):
    ours, theirs, optimizer = copies(optimizers)
    before = ours.array.weight.detach().clone()
    with ours.array.optimizer.no_step():
        for step in range(3):
            ours(ids_of(step)).square().sum().backward()
            assert torch.equal(ours.array.weight, before)
    ours(ids_of(3)).square().sum().backward()
    for step in range(4):
        theirs(ids_of(step)).square().sum().backward()
    optimizer.step()
    assert_same_arrays(ours, theirs)


class Fails(torch.autograd.Function):
    """The identity, whose backward fails."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        raise ArithmeticError("in the middle")


def test_a_backward_that_fails_leaves_nothing_behind(optimizers):
    ours, theirs, optimizer = copies(optimizers)
    before = ours.array.weight.detach().clone()
    x = torch.ones(1, dtype=torch.float64, requires_grad=True)
    # The model's part of the graph is newer, so its backward comes first.
    failing = Fails.apply(x)
    loss = ours(ids_of(0)).sum() + failing.sum()
    with pytest.raises(ArithmeticError, match="in the middle"):
        loss.backward()
    assert torch.equal(ours.array.weight, before)
    for model in (ours, theirs):
        model(ids_of(1)).sum().backward()
    optimizer.step()
    assert_same_arrays(ours, theirs)


def test_a_scheduler_changes_the_learning_rate():
    rate = torch.tensor(0.1)
    ours = Model(rt.FusedSGD(rate))
    theirs = Dense(ours)
    head = nn.Parameter(torch.ones(6, dtype=torch.float64))
    # Torch changes a rate that is a tensor in place.
    optimizer = torch.optim.SGD([{"params": [head]}, {"params": theirs.parameters()}], lr=rate)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    for step in range(5):
        for model in (ours, theirs):
            (model(ids_of(step)) @ head.detach()).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        assert_same_arrays(ours, theirs)
        scheduler.step()
    assert float(rate) == pytest.approx(0.1 / 32)


def test_another_learning_rate_may_be_assigned():
    ours = Model(rt.FusedSGD(0.1))
    before = ours.array.weight.detach().clone()
    ours.array.optimizer.lr = 0
    ours(ids_of(0)).sum().backward()
    assert torch.equal(ours.array.weight, before)


def test_nothing_is_updated_in_evaluation_mode(optimizers):
    ours, theirs, _ = copies(optimizers)
    before = copy.deepcopy(ours.array.state_dict())
    weights = [weights_of(0) for _ in range(2)]
    for model, given in zip((ours.eval(), theirs), weights, strict=True):
        model(ids_of(0), given).sum().backward()
    torch.testing.assert_close(weights[0].grad, weights[1].grad)
    assert all(map(torch.equal, before.values(), ours.array.state_dict().values()))
    with torch.no_grad():
        assert not ours.train()(ids_of(0)).requires_grad


@pytest.mark.parametrize("mode", ["max", "sum"])
def test_an_array_that_changes_before_backward_is_refused(mode):
    """Where the gradient depends on it: of a maximum, and of weights."""
    bag = rt.RobeEmbeddingBag(*SIZE, mode=mode, optimizer=rt.FusedSGD(0.1), **ARRAY)
    weights = weights_of(0) if mode == "sum" else None
    first, second = bag(ids_of(0), None, weights), bag(ids_of(1))
    second.sum().backward()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        first.sum().backward()
    dense = rt.RobeEmbeddingBag(*SIZE, mode=mode, **ARRAY)
    out = dense(ids_of(0), None, weights)
    with torch.no_grad():
        dense.array.weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_an_array_may_change_where_the_gradient_does_not_depend_on_it():
    model = Model(rt.FusedSGD(0.1))
    before = model.array.weight.detach().clone()
    outs = [model.rows(ids_of(0)), model.pooled["sum"](ids_of(1)), model.pooled["mean"](ids_of(2))]
    expected = before.clone().requires_grad_()
    tables = [table_of(module, expected) for module in (model.rows, *model.pooled.values())]
    theirs = [tables[0][ids_of(0)], tables[1][ids_of(1)].sum(1), tables[2][ids_of(2)].mean(1)]
    for out, other in zip(outs, theirs, strict=True):
        out.sum().backward()
        other.sum().backward()
    torch.testing.assert_close(model.array.weight.detach(), before - 0.1 * expected.grad)


def test_a_graph_that_is_retained_steps_again(optimizers):
    """Rows do not depend on the array, so that their gradient may be taken twice."""
    fused, make = optimizers
    module = rt.RobeEmbedding(*SIZE, optimizer=fused, **ARRAY)
    array = leaf(module.array.weight)
    optimizer = make([array])
    out, goal = module(ids_of(0)), torch.randn(8, 3, 6, dtype=torch.float64)
    expected = table_of(module, array)[ids_of(0)]
    for last in (False, True):
        (out * goal).sum().backward(retain_graph=not last)
        (gradient,) = torch.autograd.grad((expected * goal).sum(), expected, retain_graph=not last)
        array.grad = None
        table_of(module, array)[ids_of(0)].backward(gradient)
        optimizer.step()
        torch.testing.assert_close(module.array.weight.detach(), array.detach())


def test_a_gradient_of_one_input_alone_takes_no_step(optimizers):
    """As `torch.autograd.grad` leaves parameters alone."""
    ours, _, _ = copies(optimizers)
    weights, before = weights_of(0), ours.array.weight.detach().clone()
    torch.autograd.grad(ours(ids_of(0), weights).sum(), weights)
    assert torch.equal(ours.array.weight, before)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpoints(optimizers, use_reentrant):
    """One that runs a backward pass within the other would step before that is complete."""
    ours, theirs, optimizer = copies(optimizers)
    before = ours.array.weight.detach().clone()
    for model in (ours, theirs):
        x = torch.ones(6, dtype=torch.float64, requires_grad=True)

        def part(y, model=model):
            return model.pooled["mean"](ids_of(1)) * y

        y = checkpoint(part, model.rows(ids_of(0)).sum(1) * x, use_reentrant=use_reentrant)
        loss = (y * model.rows(ids_of(2)).sum(1)).square().sum()
        if use_reentrant and model is ours:
            with pytest.raises(RuntimeError, match="use_reentrant=False"):
                loss.backward()
            assert torch.equal(ours.array.weight, before)
            return
        loss.backward()
    optimizer.step()
    assert_same_arrays(ours, theirs)


def test_a_penalty_on_a_gradient_of_inputs(optimizers):
    ours, theirs, optimizer = copies(optimizers)
    for model in (ours, theirs):
        x = torch.ones(6, dtype=torch.float64, requires_grad=True)
        loss = (model.rows(ids_of(0)) * x).square().sum()
        (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
        (loss + gradient.square().sum()).backward()
    optimizer.step()
    assert_same_arrays(ours, theirs)


@pytest.mark.usefixtures("threads_for_everything")
def test_any_number_of_workers_gives_the_same_bits(optimizers, set_workers):
    fused, _ = optimizers
    start, results = Model(fused).float(), []
    for workers in (1, 2, 3):
        set_workers(workers)
        model = copy.deepcopy(start)
        for step in range(3):
            model(ids_of(step, 64)).square().mean().backward()
        results.append([value.numpy().tobytes() for value in state_of(model.array)])
    assert results[0] == results[1] == results[2]
    assert results[0] != [value.numpy().tobytes() for value in state_of(start.array)]


def state_of(array):
    return [value.detach() for value in (array.weight, array.state_sum) if value is not None]


def test_a_module_that_is_gone_is_missed():
    loss = rt.RobeEmbedding(*SIZE, optimizer=rt.FusedSGD(0.1))(ids_of(0)).sum()
    with pytest.raises(RuntimeError, match="is gone; keep it until then"):
        loss.backward()


def test_nothing_is_read_from_empty_batches(optimizers):
    model, _, _ = copies(optimizers)
    before = model.array.weight.detach().clone()
    empty = torch.empty(0, dtype=torch.int64)
    (model.rows(empty).sum() + model.pooled["max"](empty, torch.tensor([0, 0])).sum()).backward()
    assert torch.equal(model.array.weight, before)


def test_arrays_that_are_made_in_unusual_ways(optimizers):
    fused, _ = optimizers
    with torch.device("meta"):
        late = rt.RobeEmbedding(*SIZE, optimizer=fused)
    late.to_empty(device="cpu").reset_parameters()
    with torch.no_grad():
        other = rt.RobeEmbedding(*SIZE, optimizer=fused)
    for module in (late, other):
        before = module.array.weight.detach().clone()
        module(ids_of(0)).sum().backward()
        assert not torch.equal(module.array.weight, before)
    with torch.inference_mode():
        assert rt.RobeEmbedding(*SIZE, optimizer=fused)(ids_of(0)).shape == (8, 3, 6)


def test_sums_of_squares_begin_at_0_and_are_a_buffer():
    array = rt.RobeArray(10, optimizer=rt.FusedAdagrad(0.1))
    assert torch.equal(array.state_sum, torch.zeros(10))
    assert set(array.state_dict()) == {"weight", "state_sum"}
    assert set(rt.RobeArray(10, optimizer=rt.FusedSGD(0.1)).state_dict()) == {"weight"}
    assert not array.weight.requires_grad
