"""The interaction and a whole DLRM in torch."""

from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn

from perf.harness.checks import dlrm_logits
from perf.harness.places import here
from perf.harness.shapes import BenchBatch
from perf.peers.tables import TorchTable, make_optimizer
from robe_numba.dlrm import DLRMConfig


def dot_interaction(dense: torch.Tensor, embeddings: torch.Tensor) -> torch.Tensor:
    """Dense vector and the strictly lower triangle of dot products: bmm, then a gather."""
    vectors = torch.cat([dense[:, None], embeddings], dim=1)
    products = torch.bmm(vectors, vectors.transpose(1, 2)).flatten(1)
    pairs = _lower_triangle(vectors.shape[1], vectors.device)
    # Whichever is faster: indexing in the forward pass, index_select with its backward pass.
    chosen = products.index_select(1, pairs) if torch.is_grad_enabled() else products[:, pairs]
    return torch.cat([dense, chosen], dim=1)


@cache
def _lower_triangle(size: int, device: torch.device) -> torch.Tensor:
    rows, columns = torch.tril_indices(size, size, offset=-1, device=device)
    return rows * size + columns


class TorchInteraction(TorchTable):
    """embedding_bag, then `dot_interaction`."""

    def __init__(self, batch: BenchBatch, dense: np.ndarray):
        super().__init__(batch, None, weighted=False, huge_pages=False)
        self._dense = here().tensor(dense)

    def interact(self) -> torch.Tensor:
        """Lookup and interaction: (batch, d + (T + 1) T / 2)."""
        with torch.no_grad():
            return dot_interaction(self._dense, self.forward().view(self.batch.shape.output_shape))


class TorchDLRM(nn.Module):
    """A DLRM of a configuration over uncompressed tables, trained by SGD or Adagrad.

    All tables are one sparse EmbeddingBag, or with `apart` one each, as models are often written;
    on a GPU that takes a launch for each.
    """

    def __init__(
        self,
        config: DLRMConfig,
        batch: BenchBatch,
        dense: np.ndarray,
        labels: np.ndarray,
        apart: bool = False,
        optimizer: str = "sgd",
    ):
        super().__init__()
        shape = batch.shape
        self._tables_of_bags = 1 if apart else shape.num_tables
        size = shape.rows * self._tables_of_bags, shape.embedding_dim
        self.bags = nn.ModuleList()
        for _ in range(shape.num_tables // self._tables_of_bags):
            weight = torch.empty(size, device=here().torch_device).uniform_(-0.1, 0.1)
            self.bags.append(nn.EmbeddingBag(*size, mode="sum", sparse=True, _weight=weight))
        self.bottom = mlp(config.bottom_widths, final_relu=True).to(here().torch_device)
        self.top = mlp(config.top_widths, final_relu=False).to(here().torch_device)
        self._features, self._labels = dense, here().tensor(labels)
        self._inputs = self.inputs(batch, dense)
        self._loss = nn.BCEWithLogitsLoss()
        self._optimizer = make_optimizer(optimizer, self.parameters())

    def inputs(self, batch: BenchBatch, dense: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """The inputs of `forward`: features, and rows (EmbeddingBags, -1, 1)."""
        numbers = np.arange(batch.shape.num_tables) % self._tables_of_bags
        rows = batch.indices + batch.shape.rows * numbers
        if len(self.bags) > 1:
            rows = np.ascontiguousarray(rows.T)
        return here().tensor(dense), here().tensor(rows.reshape(len(self.bags), -1, 1))

    def forward(self, dense: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Logits of a batch."""
        if len(self.bags) == 1:
            vectors = self.bags[0](rows[0]).view(len(dense), -1, self.bags[0].embedding_dim)
        else:
            found = [bag(part) for bag, part in zip(self.bags, rows, strict=True)]
            vectors = torch.stack(found, dim=1)
        return self.top(dot_interaction(self.bottom(dense), vectors))[:, 0]

    def infer(self, inputs: tuple[torch.Tensor, torch.Tensor] | None = None) -> torch.Tensor:
        """Logits of the batch, or of other inputs, without recording a backward pass."""
        with torch.no_grad():
            return self(*(inputs or self._inputs))

    def step(self) -> None:
        """Forward, backward and update."""
        self._optimizer.zero_grad()
        self._loss(self(*self._inputs), self._labels).backward()
        self._optimizer.step()

    def rows(self, bag: Any, ids: torch.Tensor) -> torch.Tensor:
        """Some rows of an EmbeddingBag: (len(ids), d)."""
        return bag.weight.detach()[ids]

    def check(self) -> None:
        """Check the logits of a few samples against NumPy."""
        _, ids = self._inputs
        count = 8 * self._tables_of_bags
        found = [
            self.rows(bag, part[:count, 0]).view(-1, self._tables_of_bags, bag.embedding_dim)
            for bag, part in zip(self.bags, ids, strict=True)
        ]
        rows = torch.cat(found, dim=1).cpu().numpy()
        parameters = {
            f"{part}.{layer // 2}.{name.split('.')[1]}": weight.detach().cpu().numpy()
            for part in ("bottom", "top")
            for name, weight in getattr(self, part).named_parameters()
            for layer in [int(name.split(".")[0])]
        }
        expected = dlrm_logits(parameters, self._features[:8], rows)
        np.testing.assert_allclose(self.infer()[:8].cpu().numpy(), expected, rtol=1e-3, atol=1e-4)


def mlp(widths: tuple[int, ...], final_relu: bool) -> nn.Sequential:
    """Linear layers of these widths with ReLU between them, and after the last if `final_relu`."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(widths):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*(layers if final_relu else layers[:-1]))
