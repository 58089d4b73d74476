"""What modules read, by the oracle, in indexing that torch itself differentiates."""

from functools import cache

import numpy as np
import torch

from tests.support import naive


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
