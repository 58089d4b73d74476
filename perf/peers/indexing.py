"""CuPy's own indexing of one uncompressed table that holds the rows of all."""

from typing import Any

import numpy as np

from perf.harness.places import here
from perf.harness.shapes import Batch

CHUNK = 1 << 20  # rows that are drawn at a time


class IndexedTable:
    """table[rows], forward alone."""

    def __init__(self, batch: Batch):
        shape = batch.shape
        self.batch = batch
        count = shape.rows * shape.num_tables
        self.table = random_rows(count, shape.embedding_dim)
        first = shape.rows * np.arange(shape.num_tables)
        self._rows = here().put(batch.indices + first)

    def forward(self) -> Any:
        """(batch, num_tables, d)"""
        return self.table[self._rows]

    def check(self) -> None:
        """Compare some samples with rows that are fetched one by one."""
        out = here().fetch(self.forward()[:2])
        rows = here().fetch(self._rows[:2])
        for place in np.ndindex(rows.shape):
            np.testing.assert_array_equal(out[place], here().fetch(self.table[int(rows[place])]))


def random_rows(count: int, dim: int) -> Any:
    """A table float32 (count, dim) of random numbers, the same ones every `CHUNK` rows."""
    table = here().empty((count, dim), np.float32)
    drawn = np.random.default_rng(0).random((min(CHUNK, count), dim), np.float32)
    chunk = here().put(drawn / 5 - np.float32(0.1))
    for start in range(0, count, CHUNK):
        rows = table[start : start + CHUNK]
        rows[...] = chunk[: len(rows)]
    return table
