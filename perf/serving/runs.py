"""Runs to serve, of the shape of Kaggle's log.

Their weights are random. As in trained layers, about half of the rectified outputs are 0.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

import robe_numba as rn
from data_tools import Dataset, ingest
from data_tools.synthetic.generator import Generator
from data_tools.synthetic.presets import PRESETS as LOGS
from perf.harness.shapes import BenchShape, make_batch
from perf.peers.indexing import random_rows
from robe_numba.dlrm import DLRM, KINDS, PRESETS, DLRMConfig, Embedding, Vocabulary
from robe_numba.dlrm.embeddings.trained_array import TrainedArray
from robe_numba.training import RunFolder, TrainingConfig

COMPRESSION = 1000
SCATTER = 2_654_435_761  # a prime: spreads frequent ids over a table, as in a real log
CARDINALITIES = tuple(column.cardinality for column in LOGS["kaggle"].categorical)


@dataclass(frozen=True)
class Served:
    """A model to serve, once as ROBE and once with uncompressed tables.

    Parameters
    ----------
    config : DLRMConfig
        Its layers.
    sizes : tuple of int
        Rows of each uncompressed table; the first row is that of unknown ids.
    """

    config: DLRMConfig
    sizes: tuple[int, ...]

    @cached_property
    def known(self) -> list[np.ndarray]:
        """Known ids of each table, random and increasing: (size - 1,) uint64."""
        draw = np.random.default_rng(0).integers
        return [draw(1, 2**32 // n, n - 1, dtype=np.uint64).cumsum() for n in self.sizes]

    def ids(self, count: int, seed: int) -> np.ndarray:
        """Known ids, as frequent as in a log (Zipf): (count, num_tables) int64."""
        ids = np.empty((count, len(self.sizes)), np.int64)
        for t, (size, known) in enumerate(zip(self.sizes, self.known, strict=True)):
            column = BenchShape("", 1, 1, (), batch=count, num_tables=1, table_bytes=4 * (size - 1))
            drawn = make_batch(column, "zipf", seed + t).flat
            ids[:, t] = known[drawn * SCATTER % (size - 1)]
        return ids

    def dense(self, count: int, seed: int) -> np.ndarray:
        """Raw dense features: (count, num_dense) float32."""
        generator = np.random.default_rng(seed)
        return generator.integers(0, 1000, (count, self.config.num_dense)).astype(np.float32)

    def embedding(self, kind: str) -> Embedding:
        """An embedding "robe", or "full" with its known ids."""
        table = rn.TableSpec(self.sizes, self.config.embedding_dim)
        if kind == "full":
            array = random_rows(sum(self.sizes), table.embedding_dim).reshape(-1)
            part = TrainedArray(table, array, "sgd", 0.0)
            return KINDS[kind](kind, {"array": part}, Vocabulary.from_columns(self.known))
        dim = table.embedding_dim
        spec = rn.RobeSpec(table.array_size // COMPRESSION, dim, dim, table.num_tables)
        part = TrainedArray(spec, rn.init_array(spec), "sgd", 0.0)
        return KINDS[kind](kind, {"array": part}, None)

    def save(self, folder: Path, kind: str) -> Path:
        """Write a run and return its folder."""
        log = folder / "log"
        if not log.exists():
            Generator(seed=0, scale=0.001).write(folder / "clicks.tsv", 1000)
            ingest(folder / "clicks.tsv", log)
        settings = TrainingConfig(
            embedding=kind,
            preset="kaggle",
            compression=COMPRESSION if kind == "robe" else None,
            cardinalities=self.sizes if kind == "robe" else None,
        ).resolved()
        model = DLRM(self.config, self.embedding(kind))
        run = RunFolder.create(folder / kind, settings, Dataset(log), model)
        run.save_model(model)
        return run.path


SHAPES = {
    "kaggle": Served(PRESETS["kaggle"].config, CARDINALITIES),
    "mlperf": Served(PRESETS["mlperf"].config, tuple(size // 8 + 3 for size in CARDINALITIES)),
    "tiny": Served(DLRMConfig(13, 26, 4, (8,), (8,)), tuple(range(100, 126))),
}
