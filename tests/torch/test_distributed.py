"""Two processes that train one model by `DistributedDataParallel`, and one that trains it alone."""

import warnings

import pytest
import torch
from torch import distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

import robe_numba.torch as rt

STEPS, BATCH, ROWS = 4, 32, 1000
OPTIMIZERS = {"dense": None, "sgd": rt.FusedSGD(0.1), "adagrad": rt.FusedAdagrad(0.1)}


def new_model(kind):
    """Two modules that share an array, each used once."""
    torch.manual_seed(0)
    array = rt.RobeArray(2000, scale=0.5, optimizer=OPTIMIZERS[kind])
    bag = rt.RobeEmbeddingBag(ROWS, 8, mode="sum", array=array)
    return nn.ModuleDict({"row": rt.RobeEmbedding(ROWS, 8, array=array), "bag": bag})


class Scores(nn.Module):
    def __init__(self, embeddings):
        super().__init__()
        self.embeddings, self.top = embeddings, nn.Linear(8, 1)

    def forward(self, ids):
        return self.top(self.embeddings["row"](ids[:, 0]) + self.embeddings["bag"](ids)).squeeze(1)


def train(kind, part, wrap):
    """The array and the layer after some steps on a part of each batch."""
    model = Scores(new_model(kind))
    if part.start:  # which takes the parameters of the first process
        nn.init.zeros_(model.embeddings["row"].array.weight)
    learner = wrap(model)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    generator = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        ids = torch.randint(0, ROWS, (BATCH, 5), generator=generator)[part]
        labels = torch.randn(BATCH, generator=generator)[part]
        optimizer.zero_grad()
        (learner(ids) - labels).square().mean().backward()
        optimizer.step()
    return model.embeddings["row"].array.weight.detach(), model.top.weight.detach()


def train_a_half(rank, folder):
    distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    half = slice(rank * BATCH // 2, (rank + 1) * BATCH // 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = {kind: train(kind, half, DistributedDataParallel) for kind in OPTIMIZERS}
    torch.save(found, f"{folder}/{rank}")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    multiprocessing.spawn(train_a_half, (folder,), nprocs=2)
    return [torch.load(folder / str(rank)) for rank in range(2)]


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_two_processes_train_as_one_does(halves, kind):
    """Up to the rounding of sums, as each takes the mean over half of a batch."""
    for found, other in zip(*(half[kind] for half in halves), strict=True):
        assert torch.equal(found, other)
    start = new_model(kind)["row"].array.weight
    for found, expected in zip(
        halves[0][kind], train(kind, slice(0, BATCH), lambda model: model), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert (halves[0][kind][0] - start).abs().max() > 1e-3
