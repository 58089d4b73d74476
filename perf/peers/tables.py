"""Uncompressed tables in torch: one embedding_bag over all tables at once."""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from torch.nn.functional import embedding_bag

from perf.harness.checks import EPS, LR, STEP_ATOL
from perf.harness.places import here
from perf.harness.shapes import BenchBatch


class TablePeer(ABC):
    """Uncompressed tables, checked against NumPy on copies of a few rows."""

    def __init__(self, batch: BenchBatch, optimizer: str | None, weighted: bool):
        self.batch, self.optimizer = batch, optimizer
        self.weights = batch.weights if weighted else None

    @abstractmethod
    def forward(self) -> torch.Tensor:
        """The output, in memory (batch, num_tables, d)."""

    @abstractmethod
    def step(self) -> None:
        """Forward, backward and update."""

    @abstractmethod
    def rows(self, table: int, ids: np.ndarray) -> np.ndarray:
        """A copy of some rows of a table."""

    def check(self) -> None:
        """Check some bags of the output, then the first step on a row of some tables.

        Raises
        ------
        AssertionError
            They differ.
        """
        shape = self.batch.shape
        out = self.forward().detach().cpu().numpy().reshape(shape.output_shape)
        ids = self.batch.ids.reshape(shape.num_tables, shape.batch, shape.bag)
        factors = np.ones(ids.shape) if self.weights is None else self.weights.reshape(ids.shape)
        for table in (0, shape.num_tables - 1):
            for sample in (0, shape.batch // 2, shape.batch - 1):
                rows = self.rows(table, ids[table, sample])
                expected = factors[table, sample] @ rows
                np.testing.assert_allclose(out[sample, table], expected, rtol=1e-5, atol=1e-5)
        if self.optimizer is not None:
            self._check_step(ids, factors)

    def _check_step(self, ids: np.ndarray, factors: np.ndarray) -> None:
        grad_out, last = self.batch.grad_out, len(ids) - 1
        probes = [(table, ids[table, 0, :1]) for table in {0, last}]
        before = [self.rows(*probe) for probe in probes]
        self.step()
        for (table, row), old in zip(probes, before, strict=True):
            samples, places = np.nonzero(ids[table] == row)
            grad = factors[table, samples, places] @ grad_out[samples, table].astype(float)
            move = grad if self.optimizer == "sgd" else grad / (np.abs(grad) + EPS)
            new = self.rows(table, row)[0]
            np.testing.assert_allclose(new, old[0] - LR * move, rtol=0, atol=STEP_ATOL)


class TorchTable(TablePeer):
    """`embedding_bag` over one table that holds the rows of all tables, with sparse gradients.

    NumPy asks the system for huge pages for large arrays and torch does not: with `huge_pages`,
    NumPy allocates the table.
    """

    def __init__(self, batch: BenchBatch, optimizer: str | None, weighted: bool, huge_pages: bool):
        super().__init__(batch, optimizer, weighted)
        shape = batch.shape
        size = (shape.rows * shape.num_tables, shape.embedding_dim)
        if huge_pages:
            table = torch.from_numpy(np.empty(size, np.float32))
        else:
            table = torch.empty(size, device=here().torch_device)
        self.table = table.uniform_(-1, 1).requires_grad_()
        tensor = here().tensor
        rows = batch.ids + shape.rows * np.arange(shape.num_tables)[:, None]
        self._ids, self._offsets = tensor(self._by_samples(rows)), tensor(batch.offsets)
        self._factors = tensor(self._by_samples(batch.weights)) if weighted else None
        self._grad = tensor(batch.grad_out.reshape(-1, shape.embedding_dim))
        self._optimizer = make_optimizer(optimizer, [self.table])

    def _by_samples(self, values: np.ndarray) -> np.ndarray:
        """Values of table-major bags in sample-major order, so that the output is as ours."""
        shape = self.batch.shape
        bags = values.reshape(shape.num_tables, shape.batch, shape.bag)
        return np.ascontiguousarray(bags.transpose(1, 0, 2)).ravel()

    def _pool(self, sparse: bool) -> torch.Tensor:
        return embedding_bag(
            self._ids,
            self.table,
            self._offsets,
            mode="sum",
            sparse=sparse,
            include_last_offset=True,
            per_sample_weights=self._factors,
        )

    def forward(self) -> torch.Tensor:
        """One `embedding_bag` over all tables, without autograd."""
        with torch.no_grad():
            return self._pool(sparse=False)

    def step(self) -> None:
        """Forward, a sparse gradient, and a step of torch's optimizer."""
        self._optimizer.zero_grad()
        self._pool(sparse=True).backward(self._grad)
        self._optimizer.step()

    def rows(self, table: int, ids: np.ndarray) -> np.ndarray:
        """Copied from the table's part of the one large table."""
        wanted = here().tensor(table * self.batch.shape.rows + ids)
        return self.table.detach()[wanted].cpu().numpy()


def make_optimizer(name: str | None, parameters: Any) -> Any:
    """SGD or Adagrad of torch with the learning rate of the checks; None without a name."""
    if name is None:
        return None
    if name == "sgd":
        return torch.optim.SGD(parameters, lr=LR)
    return torch.optim.Adagrad(parameters, lr=LR, eps=EPS)
