"""Random modules and inputs, against torch's functions of the tables that the oracle reads."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

import robe_numba.torch as rt
from robe_numba.torch import kernels
from tests.support import naive
from tests.support.strategies import array_for, bags_for, indices_for, robe_specs
from tests.torch.twins import leaf, table_of

IDS = (torch.int32, torch.int64)
REALS = (torch.float32, torch.float64)
MODES = ("sum", "mean", "max")
SIGNED = ("int32", "int64")
few = settings(max_examples=40)


@st.composite
def options(draw):
    """Sizes and options of a module of one small table, whose blocks often wrap."""
    rows, dim = draw(st.integers(1, 7)), draw(st.integers(1, 9))
    block = draw(st.integers(1, 12))
    uma = draw(st.booleans()) and draw(st.booleans())
    made = {"array_size": draw(st.integers(block, 40)), "block_size": block, "scale": 1}
    made |= {"hash": "uma"} if uma else {"hash": draw(st.sampled_from(("multiply-shift", "paper")))}
    if not uma:
        made |= {"sign": draw(st.booleans()), "alignment": draw(st.integers(1, min(block, dim)))}
    made["padding_idx"] = draw(st.one_of(st.none(), st.integers(-rows, rows - 1)))
    return (rows, dim), made | {"dtype": draw(st.sampled_from(REALS))}


def draw_ids(data, rows, shape):
    count = int(np.prod(shape))
    values = data.draw(st.lists(st.integers(0, rows - 1), min_size=count, max_size=count))
    return torch.tensor(values, dtype=data.draw(st.sampled_from(IDS))).reshape(shape)


def assert_equal_with_gradients(ours, theirs, *pairs):
    """Same values, and the same gradient of each pair of leaves."""
    assert ours.shape == theirs.shape
    torch.testing.assert_close(ours, theirs)
    grad_out = torch.randn_like(theirs)
    ours.backward(grad_out)
    theirs.backward(grad_out)
    for mine, other in pairs:
        torch.testing.assert_close(mine.grad, other.grad)


@few
@given(st.data())
def test_rows_are_those_of_nn_embedding(data):
    size, made = data.draw(options())
    module = rt.RobeEmbedding(*size, **made)
    array = leaf(module.array.weight)
    ids = draw_ids(data, size[0], data.draw(st.lists(st.integers(0, 4), max_size=3)))
    expected = functional.embedding(ids, table_of(module, array))
    assert_equal_with_gradients(module(ids), expected, (module.array.weight, array))


def draw_input(data, rows):
    """Ids, offsets and whether these end with the number of ids."""
    form = data.draw(st.sampled_from(("vector", "with the last offset", "matrix", "nested")))
    if form == "matrix":
        shape = data.draw(st.tuples(st.integers(0, 4), st.integers(1, 4)))
        return draw_ids(data, rows, shape), None, False
    fewest = 1 if form == "nested" else 0
    sizes = data.draw(st.lists(st.integers(0, 4), min_size=fewest, max_size=4))
    ids = draw_ids(data, rows, (sum(sizes),))
    ends = torch.tensor([0, *np.cumsum(sizes)], dtype=data.draw(st.sampled_from(IDS)))
    if form == "nested":
        return torch.nested.nested_tensor_from_jagged(ids, ends.long()), None, False
    last = form != "vector"
    return ids, ends if last else ends[:-1], last


def shaped_as(ids, values):
    """Values of ids, nested where these are."""
    return (
        torch.nested.nested_tensor_from_jagged(values, ids.offsets()) if ids.is_nested else values
    )


@few
@given(st.data())
def test_bags_are_those_of_nn_embedding_bag(data):
    size, made = data.draw(options())
    mode = data.draw(st.sampled_from(MODES))
    ids, offsets, last = draw_input(data, size[0])
    module = rt.RobeEmbeddingBag(*size, mode=mode, include_last_offset=last, **made)
    array = leaf(module.array.weight)
    pairs, weights, other = [(module.array.weight, array)], None, None
    if mode == "sum" and data.draw(st.booleans()):
        flat = ids.values() if ids.is_nested else ids
        values = torch.randn(flat.shape, dtype=made["dtype"])
        pairs.append((leaf(values), leaf(values)))
        weights, other = (shaped_as(ids, each) for each in pairs[1])
    expected = functional.embedding_bag(
        ids,
        table_of(module, array),
        offsets,
        mode=mode,
        per_sample_weights=other,
        include_last_offset=last,
        padding_idx=made["padding_idx"],
    )
    assert_equal_with_gradients(module(ids, offsets, weights), expected, *pairs)


def drawn_tables(data, dtype):
    spec = data.draw(robe_specs(max_size=60))
    array = array_for(spec, dtype, data.draw(st.integers(0, 99)))
    return rt.RobeTables.from_spec(spec, rt.RobeArray.from_tensor(torch.from_numpy(array))), array


@few
@given(st.data())
def test_tables_are_those_of_the_oracle(data):
    """With and without sizes; any 64-bit ids without."""
    tables, array = drawn_tables(data, data.draw(st.sampled_from(("float32", "float64"))))
    spec = tables.spec
    ids = data.draw(indices_for(spec, dtypes=SIGNED))
    leading = data.draw(st.sampled_from([(-1,), (1, -1), (-1, 1)])) if len(ids) else (-1,)
    out = tables(torch.from_numpy(ids).reshape(*leading, spec.num_tables))
    assert out.shape[-2:] == (spec.num_tables, spec.embedding_dim)
    flat = out.reshape(-1, *out.shape[-2:])
    np.testing.assert_array_equal(flat.detach().numpy(), naive.lookup(array, ids, spec))
    grad_out = torch.randn_like(flat)
    flat.backward(grad_out)
    expected, scale = naive.lookup_gradient(grad_out.numpy(), ids, spec)
    assert_near(tables.array.weight.grad, expected, scale)


@few
@given(st.data())
def test_bags_of_tables_are_those_of_the_oracle(data):
    dtype = data.draw(st.sampled_from(("float32", "float64")))
    tables, array = drawn_tables(data, dtype)
    bags = data.draw(bags_for(tables.spec, dtype, dtypes=SIGNED, mixed=False))
    arguments = [None if value is None else torch.from_numpy(value) for value in bags[:2]]
    weights = None if bags.weights is None else torch.from_numpy(bags.weights).requires_grad_()
    out = tables.bags(*arguments, bags.mode, weights, bags.padding_idx)
    values = (bags.indices, bags.offsets, tables.spec, bags.mode, bags.weights, bags.padding_idx)
    expected = naive.embedding_bag(array, *values)
    rounding = 16 * np.finfo(dtype).eps
    np.testing.assert_allclose(out.detach().numpy(), expected, rounding, 8 * rounding)
    grad_out = torch.randn_like(out)
    out.backward(grad_out)
    expected, scale = naive.embedding_bag_gradient(grad_out.numpy(), *values, array)
    assert_near(tables.array.weight.grad, expected, scale)
    if weights is not None:
        expected = weights_gradient(array, grad_out.numpy(), bags, tables.spec)
        np.testing.assert_allclose(weights.grad.numpy(), expected, 1e-4, 1e-4)


def weights_gradient(array, grad_out, bags, spec):
    """float64 (n,): each row times the gradient of its bag."""
    gradient = np.zeros(len(bags.indices))
    for b, t, kept in naive.bag_members(bags.indices, bags.offsets, spec, bags.padding_idx):
        for i in kept:
            row = naive.row(array, spec, t, bags.indices[i]).astype(np.float64)
            gradient[i] = row @ grad_out[b, t]
    return gradient


def assert_near(gradient, expected, scale):
    """Within what rounding does to sums of values whose absolute values add up to `scale`."""
    values = gradient.numpy()
    bound = 16 * np.finfo(values.dtype).eps * scale
    assert (np.abs(values - expected) <= bound).all()


def test_a_matrix_without_columns_has_empty_bags():
    """Torch refuses it, by accident of how it makes offsets."""
    bag = rt.RobeEmbeddingBag(10, 4)
    assert torch.equal(bag(torch.empty(3, 0, dtype=torch.int64)), torch.zeros(3, 4))


@pytest.mark.parametrize("id_", [-(2**63), -1, 2**63 - 1])
def test_any_64_bit_id_without_sizes(id_):
    embedding = rt.RobeEmbedding(None, 6, array_size=50, block_size=4, padding_idx=3)
    array = embedding.array.weight.detach().numpy()
    row = torch.from_numpy(naive.row(array, embedding.spec, 0, id_))
    assert torch.equal(embedding(torch.tensor(id_)), row)
    bag = rt.RobeEmbeddingBag(
        None, 6, array=embedding.array, seed=embedding.spec.seed, block_size=4, padding_idx=id_
    )
    assert torch.equal(bag(torch.tensor([[id_, 5]])), embedding(torch.tensor([5])))


@pytest.mark.parametrize("dtype", [torch.uint64, torch.uint32], ids=str)
def test_weights_of_unsigned_ids_have_a_gradient(dtype):
    bag = rt.RobeEmbeddingBag(None, 4, array_size=20, mode="sum", scale=1)
    ids, offsets = torch.tensor([5, 2**32 - 1, 7]), torch.tensor([0, 2])
    weights, others = torch.ones(2, 3).requires_grad_().unbind()
    gradients = [
        torch.autograd.grad(bag(each, offsets, given).square().sum(), given)[0]
        for each, given in ((ids, weights), (ids.to(dtype), others))
    ]
    assert gradients[0].abs().min() > 0
    assert torch.equal(*gradients)


def test_modules_that_share_an_array_read_other_rows():
    array = rt.RobeArray(1000)
    first, second = (rt.RobeEmbedding(100, 8, array=array) for _ in range(2))
    assert first.array is second.array
    assert list(torch.nn.ModuleList([first, second]).parameters()) == [array.weight]
    ids = torch.arange(100)
    assert not (first(ids) == second(ids)).all(1).any()


def test_the_array_has_the_size_that_compression_asks_for():
    assert rt.RobeEmbedding(100_000, 16, compression=1000).array.size == 1600
    assert rt.RobeEmbeddingBag(100_000, 16).array.size == 16_000
    assert rt.RobeTables(2, 16, (100_000, 50_000)).array.size == 24_000
    assert rt.RobeEmbedding(10, 16).array.size == 16  # a row at least


def test_values_come_from_the_generator_of_torch():
    arrays = []
    for _ in range(2):
        torch.manual_seed(7)
        arrays.append(rt.RobeArray(1000, scale=0.5).weight)
    assert torch.equal(*arrays)
    assert 0.4 < arrays[0].abs().max() <= 0.5


def test_a_reader_leaves_an_array_as_it_is():
    array = rt.RobeArray(1000)
    before = array.weight.detach().clone()
    first, second = (rt.RobeEmbedding(10, 4, array=array) for _ in range(2))
    assert torch.equal(array.weight, before)
    first.reset_parameters()
    assert not torch.equal(array.weight, before)
    assert second.array.weight is array.weight


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int32], ids=str
)
def test_kernels_take_tensors_without_a_copy(dtype):
    tensor = torch.arange(5, dtype=dtype).requires_grad_(dtype.is_floating_point)
    taken = kernels.view(tensor)
    assert taken.ctypes.data == tensor.data_ptr()
    assert taken.astype("float64").tolist() == [0, 1, 2, 3, 4]
