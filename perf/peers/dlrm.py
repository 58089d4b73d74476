"""torch's side of the interaction and of a whole DLRM, with a sparse EmbeddingBag per table."""

from functools import cache
from itertools import pairwise

import numpy as np
import torch
from checks import dlrm_logits
from shapes import Batch
from torch import nn

from peers.tables import TorchTable, make_optimizer
from robe_numba.dlrm import DLRMConfig


def dot_interaction(dense: torch.Tensor, embeddings: torch.Tensor) -> torch.Tensor:
    """Dense vector and the strictly lower triangle of dot products: bmm, then a gather."""
    vectors = torch.cat([dense[:, None], embeddings], dim=1)
    products = torch.bmm(vectors, vectors.transpose(1, 2)).flatten(1)
    pairs = _lower_triangle(vectors.shape[1])
    # The faster of both each time: indexing has the faster forward, index_select the faster sum.
    chosen = products.index_select(1, pairs) if torch.is_grad_enabled() else products[:, pairs]
    return torch.cat([dense, chosen], dim=1)


@cache
def _lower_triangle(size: int) -> torch.Tensor:
    rows, columns = torch.tril_indices(size, size, offset=-1)
    return rows * size + columns


class TorchInteraction(TorchTable):
    """embedding_bag, then `dot_interaction`."""

    def __init__(self, batch: Batch, dense: np.ndarray):
        super().__init__(batch, None, weighted=False, huge_pages=False)
        self._dense = torch.from_numpy(dense)

    def interact(self) -> torch.Tensor:
        """(batch, d + (T + 1) T / 2)"""
        with torch.no_grad():
            return dot_interaction(self._dense, self.forward().view(self.batch.shape.output_shape))


class TorchDLRM(nn.Module):
    """A DLRM of a configuration over uncompressed tables, trained by SGD."""

    def __init__(self, config: DLRMConfig, batch: Batch, dense: np.ndarray, labels: np.ndarray):
        super().__init__()
        shape = batch.shape
        self._bags = nn.ModuleList(
            nn.EmbeddingBag(
                shape.rows,
                shape.embedding_dim,
                mode="sum",
                sparse=True,
                _weight=torch.empty(shape.rows, shape.embedding_dim).uniform_(-0.1, 0.1),
            )
            for _ in range(shape.num_tables)
        )
        self.bottom = _mlp(config.bottom_widths, final_relu=True)
        self.top = _mlp(config.top_widths, final_relu=False)
        self._numpy = batch, dense
        self._ids = [torch.from_numpy(ids) for ids in batch.ids]
        self._offsets = torch.arange(shape.batch)
        self._dense, self._labels = torch.from_numpy(dense), torch.from_numpy(labels)
        self._loss = nn.BCEWithLogitsLoss()
        self._optimizer = make_optimizer("sgd", self.parameters())

    def forward(self) -> torch.Tensor:
        """Logits of the batch."""
        vectors = [bag(ids, self._offsets) for bag, ids in zip(self._bags, self._ids, strict=True)]
        joined = dot_interaction(self.bottom(self._dense), torch.stack(vectors, dim=1))
        return self.top(joined)[:, 0]

    def infer(self) -> torch.Tensor:
        """Logits without what a backward pass would need."""
        with torch.no_grad():
            return self()

    def step(self) -> None:
        """Forward, backward and update."""
        self._optimizer.zero_grad()
        self._loss(self(), self._labels).backward()
        self._optimizer.step()

    def check(self) -> None:
        """Compare the logits of a few samples with NumPy."""
        batch, dense = self._numpy
        tables = [bag.weight.detach().numpy() for bag in self._bags]
        rows = [table[ids[:8]] for table, ids in zip(tables, batch.ids, strict=True)]
        parameters = {
            f"{part}.{layer // 2}.{name.split('.')[1]}": weight.detach().numpy()
            for part in ("bottom", "top")
            for name, weight in getattr(self, part).named_parameters()
            for layer in [int(name.split(".")[0])]
        }
        expected = dlrm_logits(parameters, dense[:8], np.stack(rows, axis=1))
        np.testing.assert_allclose(self.infer().numpy()[:8], expected, rtol=1e-3, atol=1e-4)


def _mlp(widths: tuple[int, ...], final_relu: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(widths):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*(layers if final_relu else layers[:-1]))
