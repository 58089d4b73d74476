"""The shapes that are measured, from published models, and a batch of ids for each."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

import robe_numba as rn

ZIPF_EXPONENT = 1.05


@dataclass(frozen=True)
class BenchShape:
    """One model's embeddings: compressed for us, uncompressed for the peers."""

    name: str
    array_size: int  # m, elements of the shared array
    embedding_dim: int  # d
    block_sizes: tuple[int, ...]  # Z
    bag: int = 1  # ids per bag
    batch: int = 2048  # samples
    num_tables: int = 26
    table_bytes: int = 2**31  # all uncompressed tables of a peer

    @property
    def rows(self) -> int:
        """Rows of each uncompressed table."""
        return self.table_bytes // (4 * self.embedding_dim) // self.num_tables

    @property
    def output_shape(self) -> tuple[int, int, int]:
        """(batch, num_tables, d)."""
        return self.batch, self.num_tables, self.embedding_dim

    @property
    def output_bytes(self) -> int:
        """Bytes of the float32 output."""
        return 4 * self.batch * self.num_tables * self.embedding_dim

    @property
    def num_ids(self) -> int:
        """Ids of a batch, in all bags."""
        return self.batch * self.num_tables * self.bag

    def spec(self, block_size: int, **options: Any) -> rn.RobeSpec:
        """The spec with blocks of `block_size` elements."""
        return rn.RobeSpec(
            self.array_size, block_size, self.embedding_dim, self.num_tables, **options
        )


S1 = BenchShape("S1", array_size=25_000_000, embedding_dim=128, block_sizes=(128, 32, 8))
S2 = BenchShape("S2", array_size=540_000, embedding_dim=16, block_sizes=(16, 8, 1))
S3 = BenchShape("S3", array_size=25_000_000, embedding_dim=64, block_sizes=(64,), bag=20)
TINY = BenchShape("tiny", 4096, 16, (16, 1), batch=32, num_tables=3, table_bytes=2**17)

ROWS = {shape.name: shape for shape in (S1, S2, TINY)}
BAGS = {shape.name: shape for shape in (S3, replace(TINY, block_sizes=(16,), bag=5))}


@dataclass(frozen=True)
class BenchBatch:
    """Input of one step; all contenders read the same ids.

    Gradients are small integers and weights are multiples of 1/4, so float32 sums are exact in any
    order.
    """

    shape: BenchShape
    ids: np.ndarray  # int64 (num_tables, batch * bag), in [0, rows): table-major, as bags are
    grad_out: np.ndarray  # float32 (batch, num_tables, d)
    weights: np.ndarray  # float32 (num_ids,), one per id

    def head(self, samples: int) -> "BenchBatch":
        """The first samples, at most `samples`."""
        shape = replace(self.shape, batch=min(samples, self.shape.batch))
        size = shape.batch * shape.bag
        weights = self.weights.reshape(self.ids.shape)[:, :size]
        return BenchBatch(shape, self.ids[:, :size], self.grad_out[: shape.batch], weights.ravel())

    @cached_property
    def indices(self) -> np.ndarray:
        """Ids as `lookup` takes them: int64 (batch * bag, num_tables)."""
        return np.ascontiguousarray(self.ids.T)

    @cached_property
    def flat(self) -> np.ndarray:
        """Ids of all bags as `embedding_bag` takes them: int64 (num_ids,)."""
        return self.ids.ravel()

    @cached_property
    def offsets(self) -> np.ndarray:
        """Where bags begin: int64 (num_tables * batch + 1,)."""
        return np.arange(0, self.shape.num_ids + 1, self.shape.bag)


def make_batch(shape: BenchShape, ids: str = "uniform", seed: int = 0) -> BenchBatch:
    """Random ids, "uniform" or "zipf" (low ids are the frequent ones), gradients and weights."""
    generator = np.random.default_rng(seed)
    size = (shape.num_tables, shape.batch * shape.bag)
    if ids == "zipf":
        drawn = _zipf(generator.random(size), shape.rows)
    else:
        drawn = generator.integers(0, shape.rows, size)
    grad_out = generator.integers(-4, 5, shape.output_shape, np.int8).astype(np.float32)
    weights = generator.integers(1, 5, shape.num_ids, np.int8).astype(np.float32) / 4
    return BenchBatch(shape, drawn, grad_out, weights)


def _zipf(uniform: np.ndarray, rows: int) -> np.ndarray:
    """Map uniform numbers to ids in [0, rows) with P(id) ~ (id + 1) ** -ZIPF_EXPONENT."""
    power = 1 - ZIPF_EXPONENT
    rank = (1 + uniform * ((rows + 1.0) ** power - 1)) ** (1 / power)
    return np.minimum(rank.astype(np.int64), rows) - 1
