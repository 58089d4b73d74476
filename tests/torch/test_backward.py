"""Fused optimizers in backward passes that are unusual."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import robe_numba.torch as rt
from tests.torch.twins import (
    ARRAY,
    SIZE,
    Model,
    assert_same_arrays,
    copies,
    ids_of,
    leaf,
    table_of,
    weights_of,
)


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


def test_a_module_that_is_gone_is_missed():
    loss = rt.RobeEmbedding(*SIZE, optimizer=rt.FusedSGD(0.1))(ids_of(0)).sum()
    with pytest.raises(RuntimeError, match="is gone; keep it until then"):
        loss.backward()


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
