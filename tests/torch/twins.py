"""What modules read, by the oracle, in operations that torch itself differentiates."""

from functools import cache

import numpy as np
import torch
from torch import nn
from torch.nn import functional

import robe_numba.torch as rt
from tests.support import naive

OPTIMIZERS = {
    "sgd": (rt.FusedSGD, torch.optim.SGD),
    "adagrad": (rt.FusedAdagrad, torch.optim.Adagrad),
}
SIZE = (30, 6)
ARRAY = {"array_size": 41, "block_size": 4, "scale": 1, "dtype": torch.float64}


@cache
def places(spec):
    """Where in the array the elements of all rows of one table are, and their signs, (n, d)."""
    rows = [naive.places(spec, 0, x) for x in range(spec.num_embeddings[0])]
    return torch.from_numpy(np.array(rows)).unbind(-1)


def table_of(module, array):
    """The table (num_embeddings, d) that a module stands for; its padding row is 0."""
    positions, signs = places(module.spec)
    table = array[positions] * signs
    if module.padding_idx is None:
        return table
    return table.masked_fill((torch.arange(len(table)) == module.padding_idx)[:, None], 0)


def leaf(tensor):
    """A copy that has a gradient of its own."""
    return tensor.detach().clone().requires_grad_()


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
