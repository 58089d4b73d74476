"""PyTorch's own samples, given to our modules and to torch's with the table that ours stand for."""

import pytest
import torch
from torch import nn
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import ModuleErrorEnum, module_db

import robe_numba.torch as rt
from tests.torch.twins import leaf, table_of

OURS = {nn.Embedding: rt.RobeEmbedding, nn.EmbeddingBag: rt.RobeEmbeddingBag}
INFOS = [info for info in module_db if info.module_cls in OURS]
OPERATORS = {op.name: op for op in op_db if op.name.startswith("nn.functional.embedding")}
REALS = (torch.float32, torch.float64)
HALVES = (torch.float16, torch.bfloat16)
ARRAY = {"array_size": 23, "block_size": 2, "scale": 1}  # shared by rows, and blocks wrap
# Of the functions; the others are the modules'.
OF_FORWARD = ("offsets", "per_sample_weights")
IMPOSSIBLE = {"max_norm", "scale_grad_by_freq", "sparse"}


def inputs_of(info, function, dtype):
    return function(info, device="cpu", dtype=dtype, requires_grad=True, training=True)


def assert_equal_with_gradients(ours, theirs, array, reference, others=()):
    """Same values and dtype, and the same gradients of the arrays and of pairs of others."""
    torch.testing.assert_close(ours, theirs)
    grad_out = torch.randint(-3, 4, theirs.shape).to(theirs)  # whole, for sums without rounding
    ours.backward(grad_out)
    theirs.backward(grad_out)
    for mine, other in ((array, reference), *others):
        torch.testing.assert_close(mine.grad, other.grad)


@pytest.mark.parametrize("dtype", REALS, ids=str)
@pytest.mark.parametrize("info", INFOS, ids=lambda info: info.name)
def test_inputs_of_modules(info, dtype):
    samples = inputs_of(info, info.module_inputs_func, dtype)
    assert samples
    for sample in samples:
        made, given = sample.constructor_input, sample.forward_input
        module = OURS[info.module_cls](*made.args, **made.kwargs, **ARRAY, dtype=dtype)
        array = leaf(module.array.weight)
        theirs = info.module_cls(*made.args, **made.kwargs, dtype=dtype)
        parameters = {"weight": table_of(module, array)}
        expected = torch.func.functional_call(theirs, parameters, given.args, given.kwargs)
        out = module(*given.args, **given.kwargs)
        assert_equal_with_gradients(out, expected, module.array.weight, array)


@pytest.mark.parametrize("info", INFOS, ids=lambda info: info.name)
def test_wrong_inputs_of_modules(info):
    samples = inputs_of(info, info.module_error_inputs_func, torch.float32)
    assert samples
    for sample in samples:
        made = sample.module_error_input.constructor_input
        if sample.error_on == ModuleErrorEnum.CONSTRUCTION_ERROR:
            with pytest.raises(sample.error_type, match=sample.error_regex):
                OURS[info.module_cls](*made.args, **made.kwargs, **ARRAY)
            continue
        module = OURS[info.module_cls](*made.args, **made.kwargs, **ARRAY)
        given = sample.module_error_input.forward_input
        with pytest.raises(sample.error_type, match=sample.error_regex):
            module(*given.args, **given.kwargs)


def ours_of(sample, dtype, kind):
    """Our module of the options of a sample, and the arguments of its forward pass."""
    options = {name: value for name, value in sample.kwargs.items() if name not in OF_FORWARD}
    given = {name: value for name, value in sample.kwargs.items() if name in OF_FORWARD}
    return kind(*sample.input.shape, **options, **ARRAY, dtype=dtype), given


@pytest.mark.parametrize("dtype", REALS, ids=str)
def test_samples_of_embedding_bag(dtype):
    op = OPERATORS["nn.functional.embedding_bag"]
    count = 0
    for sample in op.sample_inputs("cpu", dtype, requires_grad=True):
        count += 1
        (ids,) = sample.args
        module, given = ours_of(sample, dtype, rt.RobeEmbeddingBag)
        array, weights = leaf(module.array.weight), given.get("per_sample_weights")
        other = None if weights is None else leaf(weights)
        expected = op(table_of(module, array), ids, **sample.kwargs | {"per_sample_weights": other})
        pairs = [] if weights is None else [(weights, other)]
        out = module(ids, **given)
        assert_equal_with_gradients(out, expected, module.array.weight, array, pairs)
    assert count > 20


@pytest.mark.parametrize("dtype", REALS, ids=str)
def test_samples_of_embedding(dtype):
    op = OPERATORS["nn.functional.embedding"]
    samples = list(op.sample_inputs("cpu", dtype, requires_grad=True))
    assert samples
    for sample in samples:
        (ids,) = sample.args
        module, _ = ours_of(sample, dtype, rt.RobeEmbedding)
        array = leaf(module.array.weight)
        expected = op(table_of(module, array), ids, **sample.kwargs)
        assert_equal_with_gradients(module(ids), expected, module.array.weight, array)


@pytest.mark.parametrize("dtype", REALS + HALVES, ids=str)
@pytest.mark.parametrize("name", OPERATORS)
def test_samples_without_gradients(name, dtype):
    """Also those that ask for what rows that share elements cannot have."""
    op = OPERATORS[name]
    kind = rt.RobeEmbedding if name.endswith("embedding") else rt.RobeEmbeddingBag
    refused = 0
    for sample in op.sample_inputs("cpu", dtype, requires_grad=False):
        if any(sample.kwargs.get(option) for option in IMPOSSIBLE):
            refused += 1
            with pytest.raises(ValueError, match="a hashed table cannot have"):
                ours_of(sample, dtype, kind)
            continue
        module, given = ours_of(sample, dtype, kind)
        with torch.no_grad():
            expected = op(table_of(module, module.array.weight), *sample.args, **sample.kwargs)
            torch.testing.assert_close(module(*sample.args, **given), expected)
    assert refused
