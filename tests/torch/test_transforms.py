"""What torch does with a module besides calling it: derivatives, transforms, AMP, tracing."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call, grad, hessian, jacrev, jvp, vmap

import robe_numba.torch as rt
from tests.torch.twins import table_of

SIZE = (9, 5)
ARRAY = {"array_size": 17, "block_size": 2, "dtype": torch.float64}
IDS = torch.tensor([[1, 8, 3], [3, 3, 0]])
OFFSETS = torch.tensor([0, 2, 2, 5])
MODES = ("sum", "mean", "max")


def of_array(module, *arguments):
    """The forward pass as a function of the array."""
    return lambda array: functional_call(module, {"array.weight": array}, arguments)


def make(kind, **options):
    options = {"num_embeddings": SIZE[0], "embedding_dim": SIZE[1], **ARRAY, **options}
    return kind(scale=1, **options)


def tables():
    return rt.RobeTables(3, 5, scale=1, **ARRAY)


@pytest.mark.parametrize("padding_idx", [None, 3])
def test_rows_have_derivatives_of_any_order(padding_idx):
    for module in (make(rt.RobeEmbedding, padding_idx=padding_idx), tables()):
        read, array = of_array(module, IDS), module.array.weight
        assert gradcheck(read, array)
        assert gradgradcheck(read, array)
        assert gradgradcheck(lambda array, read=read: read(array) ** 3, array)


@pytest.mark.parametrize("mode", MODES)
def test_bags_have_first_derivatives(mode):
    module = make(rt.RobeEmbeddingBag, mode=mode, padding_idx=0)
    assert gradcheck(of_array(module, IDS), module.array.weight)
    assert gradcheck(of_array(module, torch.arange(7), OFFSETS), module.array.weight)


def test_weights_of_bags_have_first_derivatives():
    module = make(rt.RobeEmbeddingBag, mode="sum", padding_idx=0)
    weights = torch.randn(IDS.shape, dtype=torch.float64, requires_grad=True)
    array = module.array.weight
    assert gradcheck(lambda *both: of_array(module, IDS, None, both[1])(both[0]), (array, weights))
    several = tables()
    weights = torch.randn(9, dtype=torch.float64, requires_grad=True)
    ends = torch.tensor([0, 2, 2, 5, 6, 6, 9])
    ids = torch.arange(9)
    assert gradcheck(lambda given: several.bags(ids, ends, "sum", given), weights)


@pytest.mark.parametrize("mode", MODES)
def test_second_derivatives_of_bags_are_refused(mode):
    module = make(rt.RobeEmbeddingBag, mode=mode)
    (first,) = torch.autograd.grad(
        module(IDS).square().sum(), module.array.weight, create_graph=True
    )
    with pytest.raises(RuntimeError, match="cannot be differentiated again; use RobeEmbedding"):
        first.sum().backward()


# torch scripts derivatives of its own at the first use of this mode.
forward_mode = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")


@forward_mode
def test_rows_have_derivatives_in_forward_mode():
    for module in (make(rt.RobeEmbedding, padding_idx=3), tables()):
        read, array = of_array(module, IDS), module.array.weight
        assert gradcheck(read, array, check_forward_ad=True)
        assert gradgradcheck(read, array, check_fwd_over_rev=True)
        values = array.detach()
        cubes = lambda array, read=read: read(array).pow(3).sum()  # noqa: E731
        torch.testing.assert_close(hessian(cubes)(values), jacrev(jacrev(cubes))(values))


@forward_mode
@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_bags_have_derivatives_in_forward_mode(mode):
    module = make(rt.RobeEmbeddingBag, mode=mode, padding_idx=0)
    assert gradcheck(of_array(module, IDS), module.array.weight, check_forward_ad=True)
    if mode == "sum":
        weights = torch.randn(IDS.shape, dtype=torch.float64, requires_grad=True)
        read = lambda *both: of_array(module, IDS, None, both[1])(both[0])  # noqa: E731
        assert gradcheck(read, (module.array.weight, weights), check_forward_ad=True)


@forward_mode
def test_maxima_have_no_derivative_in_forward_mode():
    module = make(rt.RobeEmbeddingBag, mode="max")
    values = module.array.weight.detach()
    with pytest.raises(NotImplementedError, match="mode 'max' has no forward-mode derivative"):
        jvp(of_array(module, IDS), (values,), (values,))


def test_transforms_differentiate_a_fused_module_and_do_not_step():
    module = make(rt.RobeEmbedding, optimizer=rt.FusedSGD(1.0))
    values = module.array.weight.detach().clone()
    loss = lambda array: of_array(module, IDS)(array).square().sum()  # noqa: E731
    found = grad(loss)(values)
    module.eval()
    expected = values.clone().requires_grad_()
    loss(expected).backward()
    torch.testing.assert_close(found, expected.grad)
    assert found.abs().max() > 0
    assert torch.equal(module.array.weight, values)


def test_another_array_in_place_of_a_fused_one_has_a_gradient():
    module = make(rt.RobeEmbedding, optimizer=rt.FusedSGD(1.0))
    before = module.array.weight.clone()
    other, same = (torch.randn(17, dtype=torch.float64).requires_grad_() for _ in range(2))
    of_array(module, IDS)(other).sum().backward()
    of_array(make(rt.RobeEmbedding), IDS)(same).sum().backward()
    torch.testing.assert_close(other.grad, same.grad)
    assert torch.equal(module.array.weight, before)


@pytest.mark.parametrize("kind", [rt.RobeEmbedding, rt.RobeEmbeddingBag])
def test_a_fused_module_steps_under_vmap(kind):
    mapped, plain = (make(kind, optimizer=rt.FusedSGD(1.0)) for _ in range(2))
    plain.load_state_dict(mapped.state_dict())
    before, ids = plain.array.weight.clone(), IDS.view(2, 1, -1)
    vmap(mapped)(ids).sum().backward()
    torch.stack([plain(each) for each in ids]).sum().backward()
    torch.testing.assert_close(mapped.array.weight, plain.array.weight)
    assert not torch.equal(mapped.array.weight, before)


READERS = {
    "rows": lambda **options: (make(rt.RobeEmbedding, padding_idx=3, **options), IDS),
    "bags": lambda **options: (make(rt.RobeEmbeddingBag, mode="max", **options), IDS),
    "tables": lambda **options: (rt.RobeTables(3, 5, scale=1, **ARRAY | options), IDS),
}


@pytest.fixture(params=READERS)
def reader(request):
    """A module, and ids (2, 3)."""
    return READERS[request.param]()


def test_functions_of_torch_func(reader):
    module, ids = reader
    array = module.array.weight.detach()

    def loss(array, ids):
        return functional_call(module, {"array.weight": array}, (ids,)).square().sum()

    module(ids).square().sum().backward()
    torch.testing.assert_close(grad(loss)(array, ids), module.array.weight.grad)
    batches = torch.stack([ids, ids.flip(0), ids.flip(1)])
    each = torch.stack([grad(loss)(array, each) for each in batches])
    per_sample = vmap(grad(loss), in_dims=(None, 0))(array, batches)
    torch.testing.assert_close(per_sample, each)
    columns = vmap(grad(loss), in_dims=(None, 1))(array, batches.transpose(0, 1))
    torch.testing.assert_close(columns, each)
    summed = jacrev(lambda array: vmap(loss, (None, 0))(array, batches))(array)
    torch.testing.assert_close(summed, each)
    ensemble = torch.stack([array, -array])
    torch.testing.assert_close(
        vmap(loss, (0, None))(ensemble, ids), torch.stack([loss(a, ids) for a in ensemble])
    )


def test_second_derivatives_by_torch_func():
    module = make(rt.RobeEmbedding)
    array = module.array.weight.detach()
    ours, theirs = (
        jacrev(jacrev(lambda array, read=read: read(array).pow(3).sum()))(array)
        for read in (of_array(module, IDS), lambda array: table_of(module, array)[IDS])
    )
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("ours", "theirs"), [(rt.RobeEmbedding, nn.Embedding), (rt.RobeEmbeddingBag, nn.EmbeddingBag)]
)
def test_autocast_gives_the_dtypes_of_torch(ours, theirs):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for dtype in (torch.float64, torch.float32):
            module = ours(*SIZE, array_size=17, dtype=dtype)
            out, expected = module(IDS), theirs(*SIZE, dtype=dtype)(IDS)
            assert out.dtype == expected.dtype
        logits = nn.Linear(SIZE[1], 1)(out)
    assert logits.dtype == torch.bfloat16
    logits.sum().backward()
    assert module.array.weight.grad.dtype == torch.float32
    assert module.array.weight.grad.any()


def test_weights_under_autocast_keep_the_dtype_of_the_array():
    weights = torch.randn(IDS.shape)
    ours = rt.RobeEmbeddingBag(*SIZE, array_size=17, mode="sum")
    for module in (ours, nn.EmbeddingBag(*SIZE, mode="sum")):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert module(IDS, None, weights).dtype == torch.float32
            with pytest.raises(RuntimeError, match="per_sample_weights"):
                module(IDS, None, weights.bfloat16())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # `torch.jit.trace` itself
def test_a_trace_reads_other_ids_and_other_arrays(reader):
    module, ids = reader
    traced = torch.jit.trace(module, (ids,))
    others = torch.tensor([[0, 1, 2], [7, 8, 3], [5, 5, 5]])
    with torch.no_grad():
        module.array.weight.mul_(2)
    assert torch.equal(traced(others), module(others))
    traced(others).sum().backward()
    assert module.array.weight.grad.any()


def test_fake_tensors_have_the_shapes_and_dtypes(reader):
    module, ids = reader
    out, array = module(ids), module.array.weight.detach()
    with FakeTensorMode() as mode:
        fake_array = mode.from_tensor(array).requires_grad_()
        fake = of_array(module, mode.from_tensor(ids))(fake_array)
        fake.sum().backward()
    assert (fake.shape, fake.dtype) == (out.shape, out.dtype)
    assert fake_array.grad.shape == module.array.weight.shape


def test_modules_on_the_meta_device(reader):
    module, ids = reader
    shape = module(ids).shape
    out = module.to("meta")(ids.to("meta"))
    assert out.is_meta
    assert out.shape == shape
