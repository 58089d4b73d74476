"""ROBE as its authors released it: the position of every element computed by torch operations.

Source: Desai, Chou, Shrivastava, ROBE, MLSys 2022, arXiv 2108.02191.
"""

import numpy as np
import torch

from perf.harness.checks import LR, SAMPLES, STEP_ATOL
from perf.harness.places import here
from perf.harness.shapes import BenchBatch
from perf.peers.tables import make_optimizer

PRIME = 2038074743
A, B, C, D = 1_234_567_891, 987_654_321, 1_357_924_680, 246_813_579


class PublishedFormula:
    """((A t + B x + C k + D) mod P) mod (m - Z + 1) + j, then indexing; gradients are dense."""

    def __init__(self, batch: BenchBatch, optimizer: str | None, block_size: int):
        shape = self._shape = batch.shape
        self._block_size, self._optimizer_name = block_size, optimizer
        self._batch, self._indices = batch, batch.indices
        self._ids = here().tensor(batch.indices)[:, :, None]
        self._grad = here().tensor(batch.grad_out)
        array = torch.empty(shape.array_size, device=here().torch_device)
        self._array = array.uniform_(-1, 1).requires_grad_()
        self._optimizer = make_optimizer(optimizer, [self._array])

    def _positions(self) -> torch.Tensor:
        device = self._ids.device
        element = torch.arange(self._shape.embedding_dim, device=device)
        table = torch.arange(self._shape.num_tables, device=device)[:, None]
        block, inside = element // self._block_size, element % self._block_size
        start = (A * table + B * self._ids + C * block + D) % PRIME
        return start % (self._shape.array_size - self._block_size + 1) + inside

    def forward(self) -> torch.Tensor:
        """Hash every element, then index the array."""
        with torch.no_grad():
            return self._array[self._positions()]

    def step(self) -> None:
        """Forward, a dense gradient, and a step of torch's optimizer."""
        self._optimizer.zero_grad()
        self._array[self._positions()].backward(self._grad)
        self._optimizer.step()

    def check(self) -> None:
        """Check the output and the first step of some samples against the formula in NumPy."""
        if self._shape.batch > SAMPLES:
            head = self._batch.head(SAMPLES)
            PublishedFormula(head, self._optimizer_name, self._block_size).check()
            return
        element, table = np.arange(self._shape.embedding_dim), np.arange(self._shape.num_tables)
        key = (B * self._indices + A * table + D)[:, :, None] + C * (element // self._block_size)
        starts = key % PRIME % (self._shape.array_size - self._block_size + 1)
        positions = starts + element % self._block_size
        array = self._array.detach().cpu().numpy()
        np.testing.assert_array_equal(self.forward().cpu().numpy(), array[positions])
        if self._optimizer is not None:
            expected = array.astype(float)
            np.add.at(expected, positions.ravel(), -LR * self._grad.cpu().numpy().ravel())
            self.step()
            moved = self._array.detach().cpu().numpy()
            np.testing.assert_allclose(moved, expected, rtol=0, atol=STEP_ATOL)
