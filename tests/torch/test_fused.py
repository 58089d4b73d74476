"""Optimizers that step during backward, against those of torch on the dense formula."""

import copy
import dataclasses
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest
import torch
from torch import nn

import robe_numba.torch as rt
from robe_numba.torch import fused
from robe_numba.torch.fused import Use
from robe_numba.torch.kernels import Rows
from tests.torch.twins import (
    OPTIMIZERS,
    Dense,
    Model,
    assert_same_arrays,
    copies,
    ids_of,
    table_of,
    weights_of,
)

STEPS = 50
TABLES, BATCH = 5, 17


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


def test_a_reader_in_evaluation_mode_leaves_the_others_in_training(optimizers):
    ours, _, _ = copies(optimizers)
    ours.rows.eval()
    assert ours.pooled["sum"](ids_of(0)).requires_grad
    assert not ours.rows(ids_of(0)).requires_grad


def test_a_backward_pass_within_another_is_a_step_of_its_own():
    ours = Model(rt.FusedSGD(0.1))
    theirs = Dense(ours)
    for model in (ours, theirs):
        inner, first = model.rows(ids_of(0)).sum(), model.rows(ids_of(1)) * 1
        first.register_hook(lambda _, inner=inner: inner.backward())
        (first + model.rows(ids_of(2))).sum().backward()  # the hook runs between its two reads
    torch.optim.SGD(theirs.parameters(), lr=0.1).step()
    assert_same_arrays(ours, theirs)


class Meet(torch.autograd.Function):
    """Does nothing, but waits in the backward pass for another thread's."""

    @staticmethod
    def forward(ctx, x, barrier):
        ctx.barrier = barrier
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        ctx.barrier.wait()
        return grad, None


def test_backward_passes_of_two_threads_lose_nothing():
    ours = Model(rt.FusedSGD(0.1))
    theirs = Dense(ours)
    barrier = Barrier(2, timeout=60)

    def run(thread):
        reads = [Meet.apply(ours.rows(ids_of(2 * i + thread)), barrier) for i in range(4)]
        sum(reads).sum().backward()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(run, range(2)))
    sum(theirs.rows(ids_of(i)) for i in range(8)).sum().backward()
    torch.optim.SGD(theirs.parameters(), lr=0.1).step()
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


def test_nothing_is_read_from_empty_batches(optimizers):
    model, _, _ = copies(optimizers)
    before = model.array.weight.detach().clone()
    empty = torch.empty(0, dtype=torch.int64)
    (model.rows(empty).sum() + model.pooled["max"](empty, torch.tensor([0, 0])).sum()).backward()
    assert torch.equal(model.array.weight, before)


def test_sums_of_squares_begin_at_0_and_are_a_buffer():
    array = rt.RobeArray(10, optimizer=rt.FusedAdagrad(0.1))
    assert torch.equal(array.state_sum, torch.zeros(10))
    assert set(array.state_dict()) == {"weight", "state_sum"}
    assert set(rt.RobeArray(10, optimizer=rt.FusedSGD(0.1)).state_dict()) == {"weight"}
    assert not array.weight.requires_grad


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


@pytest.mark.parametrize("made_for", [None, rt.FusedSGD(0.1), rt.FusedAdagrad(0.1)])
def test_an_array_is_not_moved_by_an_optimizer_of_another_kind(made_for):
    module = rt.RobeEmbedding(50, 4, optimizer=made_for)
    with_sums = isinstance(made_for, rt.FusedAdagrad)
    module.array.optimizer = rt.FusedSGD(0.1) if with_sums else rt.FusedAdagrad(0.1)
    before = module.array.weight.detach().clone()
    with pytest.raises(ValueError, match="was made for another optimizer"):
        module(torch.arange(5)).sum().backward()
    assert torch.equal(module.array.weight, before)


@pytest.mark.parametrize("uses", [1, 2])
def test_steps_check_what_kernels_index_by(uses):
    """A gradient of fewer rows than ids, and a spec of a larger array."""
    module = rt.RobeEmbedding(50, 4, array_size=40)
    array, optimizer = module.array.weight.detach(), rt.FusedSGD(0.1)
    before, ids = array.clone(), torch.arange(6)
    starts = torch.zeros(6, 1, dtype=torch.int64)
    short = Use(Rows(ids, module.spec, None), torch.ones(5, 4), starts)
    larger = dataclasses.replace(module.spec, array_size=80)
    beyond = Use(Rows(ids, larger, None), torch.ones(6, 4), starts + 70)
    mixed = beyond._replace(reads=Rows(ids, larger, 3))  # of another group
    with pytest.raises((ValueError, RuntimeError), match=r"grad_out has shape|Sizes of tensors"):
        optimizer.step(array, None, [short] * uses)
    with pytest.raises(ValueError, match="array has shape"):
        optimizer.step(array, None, [beyond] * uses)
    with pytest.raises(ValueError, match="array has shape"):
        rt.FusedAdagrad(0.1).step(array, torch.zeros(40), [beyond, mixed])
    assert torch.equal(array, before)
