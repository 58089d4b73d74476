"""A DLRM with multi-hot features and the cross network of DCN v2, in torch."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn

from perf.harness.checks import dlrm_logits
from perf.harness.places import here
from perf.harness.shapes import BenchShape
from perf.peers.dlrm import mlp
from perf.peers.tables import make_optimizer
from robe_numba.dlrm import DLRMConfig


class Cross(nn.Module):
    """A cross layer of low rank: x_0 * (x @ v.T @ u.T + bias) + x."""

    def __init__(self, width: int, rank: int):
        super().__init__()
        self.v = nn.Linear(width, rank, bias=False)
        self.u = nn.Linear(rank, width)

    def forward(self, first: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """The output (batch, width)."""
        return torch.addcmul(x, first, self.u(self.v(x)))


class TorchDCN(nn.Module):
    """The model over uncompressed tables, which are one sparse EmbeddingBag, as fast as any.

    Parameters
    ----------
    config : DLRMConfig
        With the interaction "dcn".
    shape : BenchShape
        Rows and width of the tables.
    ids : sequence of ndarray, (batch, ids of the table) int64
        Of each table.
    dense : ndarray, (batch, num_dense) float32
    labels : ndarray, (batch,) float32
    optimizer : str
        "sgd" or "adagrad".
    """

    def __init__(
        self,
        config: DLRMConfig,
        shape: BenchShape,
        ids: Sequence[np.ndarray],
        dense: np.ndarray,
        labels: np.ndarray,
        optimizer: str,
    ):
        super().__init__()
        size = shape.rows * len(ids), shape.embedding_dim
        weight = torch.empty(size, device=here().torch_device).uniform_(-0.1, 0.1)
        self.bag = nn.EmbeddingBag(
            *size, mode="sum", sparse=True, include_last_offset=True, _weight=weight
        )
        self.bottom = mlp(config.bottom_widths, final_relu=True)
        self.cross = nn.ModuleList(
            Cross(config.interaction_width, rank) for rank in config.cross_ranks
        )
        self.top = mlp(config.top_widths, final_relu=False)
        self.to(here().torch_device)
        rows = np.concatenate([part + shape.rows * t for t, part in enumerate(ids)], axis=1)
        ends = np.cumsum([0, *np.tile([part.shape[1] for part in ids], len(dense))])
        self._inputs = tuple(map(here().tensor, (dense, rows.ravel(), ends)))
        self._labels, self._loss = here().tensor(labels), nn.BCEWithLogitsLoss()
        self._optimizer = make_optimizer(optimizer, self.parameters())

    def forward(
        self, dense: torch.Tensor, rows: torch.Tensor, offsets: torch.Tensor
    ) -> torch.Tensor:
        """Logits of a batch."""
        pooled = self.bag(rows, offsets).view(len(dense), -1)
        joined = x = torch.cat([self.bottom(dense), pooled], dim=1)
        for layer in self.cross:
            x = layer(joined, x)
        return self.top(x)[:, 0]

    def infer(self) -> torch.Tensor:
        """Logits of the batch, without recording a backward pass."""
        with torch.no_grad():
            return self(*self._inputs)

    def step(self) -> None:
        """Forward, backward and update."""
        self._optimizer.zero_grad()
        self._loss(self(*self._inputs), self._labels).backward()
        self._optimizer.step()

    def check(self) -> None:
        """Check the logits of a few samples against NumPy."""
        count = min(8, len(self._labels))
        dense = self._inputs[0][:count].cpu().numpy()
        expected = dlrm_logits(self.layers(), dense, self.pooled(count), "dcn")
        np.testing.assert_allclose(self.infer()[:count].cpu(), expected, rtol=1e-3, atol=1e-4)

    def layers(self) -> dict[str, np.ndarray]:
        """Copies of the dense parameters, by their names in `DLRM.parameters()`."""
        found: dict[str, Any] = {}
        for part, layers in (("bottom", self.bottom), ("top", self.top)):
            for number, layer in enumerate(layers[::2]):
                found[f"{part}.{number}.weight"] = layer.weight
                found[f"{part}.{number}.bias"] = layer.bias
        for number, layer in enumerate(self.cross):
            found[f"cross.{number}.v"] = layer.v.weight
            found[f"cross.{number}.u"] = layer.u.weight
            found[f"cross.{number}.bias"] = layer.u.bias
        return {name: each.detach().cpu().numpy() for name, each in found.items()}

    def pooled(self, samples: int) -> np.ndarray:
        """The pooled rows of the first samples (samples, num_tables, d), summed by NumPy."""
        _, rows, offsets = (each.cpu().numpy() for each in self._inputs)
        count = samples * ((len(offsets) - 1) // len(self._labels))
        table = self.bag.weight.detach()
        bags = [
            table[here().tensor(rows[a:b])].cpu().numpy().sum(axis=0)
            for a, b in pairwise(offsets[: count + 1].tolist())
        ]
        return np.stack(bags).reshape(samples, -1, self.bag.embedding_dim)
