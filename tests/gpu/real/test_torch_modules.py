"""Modules for PyTorch on a real GPU give what they give on the CPU."""

import copy

import pytest

torch = pytest.importorskip("torch")

import robe_numba.torch as rt

ROWS, DIM, BATCH = 5000, 16, 300
OPTIMIZERS = {"dense": None, "sgd": rt.FusedSGD(0.25), "adagrad": rt.FusedAdagrad(0.25)}


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def assert_alike(on_gpu, on_cpu):
    assert on_gpu.is_cuda
    torch.testing.assert_close(on_gpu.cpu(), on_cpu, rtol=1e-5, atol=1e-6)


def step(module, kind, *inputs):
    """The output and the array after a step."""
    out = module(*inputs)
    out.square().sum().backward()
    weight = module.array.weight
    if kind == "dense":
        torch.optim.SGD([weight], lr=0.25).step()
    return out.detach(), weight.detach()


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("padding_idx", [None, 7])
def test_rows(kind, padding_idx, generator):
    optimizer = OPTIMIZERS[kind]
    module = rt.RobeEmbedding(ROWS, DIM, padding_idx, scale=0.5, optimizer=optimizer)
    other = copy.deepcopy(module).cuda()
    ids = torch.randint(0, ROWS, (BATCH, 3), generator=generator)
    for found, expected in zip(step(other, kind, ids.cuda()), step(module, kind, ids), strict=True):
        assert_alike(found, expected)


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bags(kind, mode, generator):
    optimizer = OPTIMIZERS[kind]
    module = rt.RobeEmbeddingBag(ROWS, DIM, mode=mode, scale=0.5, optimizer=optimizer)
    other = copy.deepcopy(module).cuda()
    ids = torch.randint(0, ROWS, (BATCH, 5), generator=generator)
    for found, expected in zip(step(other, kind, ids.cuda()), step(module, kind, ids), strict=True):
        assert_alike(found, expected)


def test_weights_of_bags(generator):
    tables = rt.RobeTables(4, DIM, array_size=10_000, scale=0.5)
    other = copy.deepcopy(tables).cuda()
    offsets = torch.arange(0, 4 * BATCH * 3 + 1, 3)
    values = torch.randint(-(2**63), 2**63 - 1, (int(offsets[-1]),), generator=generator)
    weights = torch.rand(len(values), generator=generator)
    gradients = []
    for module, put in ((tables, torch.Tensor.cpu), (other, torch.Tensor.cuda)):
        factors = put(weights).clone().requires_grad_()
        module.bags(put(values), put(offsets), per_sample_weights=factors).square().sum().backward()
        gradients.append((factors.grad, module.array.weight.grad))
    for expected, found in zip(*gradients, strict=True):
        assert_alike(found, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves(dtype, generator):
    module = rt.RobeEmbedding(ROWS, DIM, scale=0.5).to(dtype)
    ids = torch.randint(0, ROWS, (BATCH,), generator=generator)
    expected = module(ids)
    found = module.cuda()(ids.cuda())
    assert found.dtype == dtype
    assert torch.equal(found.cpu(), expected)


def test_calls_work_on_the_current_stream_and_compile(generator):
    tables = rt.RobeTables(26, DIM, array_size=10_000, scale=0.5)
    ids = torch.randint(0, 2**40, (BATCH, 26), generator=generator)
    expected = tables(ids).detach()
    tables.cuda()
    compiled = torch.compile(tables, fullgraph=True)
    with torch.cuda.stream(torch.cuda.Stream()):
        given = ids.cuda()
        assert_alike(tables(given).detach(), expected)
        assert_alike(compiled(given).detach(), expected)
