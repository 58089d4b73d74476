"""CuPy indexing of one uncompressed table that holds the rows of all tables."""

from typing import Any

import numpy as np

from perf.harness.places import here
from perf.harness.shapes import BenchBatch

CHUNK = 1 << 20  # rows that are drawn at once


class IndexedTable:
    """table[rows], the forward pass only."""

    def __init__(self, batch: BenchBatch):
        shape = batch.shape
        self.batch = batch
        count = shape.rows * shape.num_tables
        self.table = random_rows(count, shape.embedding_dim)
        first = shape.rows * np.arange(shape.num_tables)
        self._rows = here().put(batch.indices + first)

    def forward(self) -> Any:
        """Rows of the batch: (batch, num_tables, d)."""
        return self.table[self._rows]

    def check(self) -> None:
        """Check some samples against rows that are fetched one by one."""
        out = here().fetch(self.forward()[:2])
        rows = here().fetch(self._rows[:2])
        for place in np.ndindex(rows.shape):
            np.testing.assert_array_equal(out[place], here().fetch(self.table[int(rows[place])]))


def random_rows(count: int, dim: int) -> Any:
    """A random table, (count, dim) float32; its numbers repeat every `CHUNK` rows."""
    table = here().empty((count, dim), np.float32)
    drawn = np.random.default_rng(0).random((min(CHUNK, count), dim), np.float32)
    chunk = here().put(drawn / 5 - np.float32(0.1))
    for start in range(0, count, CHUNK):
        rows = table[start : start + CHUNK]
        rows[...] = chunk[: len(rows)]
    return table
