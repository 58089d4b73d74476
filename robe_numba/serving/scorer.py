"""A trained run in memory, which scores rows for any number of threads."""

import os

import numpy as np

from data_tools.sources.criteo.parser import transform_dense
from robe_numba.checks.arrays import ARRAY_DTYPES, check_array
from robe_numba.checks.ids import INDEX_DTYPES, as_uint64
from robe_numba.dlrm.gradient_buffer import layers_of
from robe_numba.dlrm.layers.interaction import cat_interaction
from robe_numba.dlrm.layers.packed import PackedMLP
from robe_numba.kernels.cpu.launch import num_threads, on_threads
from robe_numba.kernels.cpu.mlp import sigmoids
from robe_numba.memory import scratch
from robe_numba.training.run.folder import RunFolder

MOST_ROWS = 8192  # that are scored at once, which bounds the memory of a call


class Scorer:
    """The model of a run, loaded once. Any number of threads may call it at a time.

    The score of a row has the same bits whatever rows are scored with it, for any number of
    threads. It may differ from that of `robe predict`, which rounds other sums, by 1e-6.

    Parameters
    ----------
    run : path
        Folder of a run, made by `robe train`.
    threads : int, optional
        Most threads of a call, used only where there are many rows; by default Numba's.

    Attributes
    ----------
    dense_names, id_names : list of str
        Columns of `dense` and `ids`, as in the log that the run learned from.
    num_dense, num_tables : int
        Their numbers.
    num_bytes : int
        Bytes of everything that scoring reads: embeddings, known ids and layers.
    version : str
        The first 16 hexadecimal digits of the model's digest; "" for runs of before digests.

    Raises
    ------
    ValueError, OSError
        The folder is not a run, its files are damaged or cannot be read, or `threads` is not
        positive.
    """

    def __init__(self, run: str | os.PathLike[str], *, threads: int | None = None):
        if threads is not None and threads < 1:
            raise ValueError(f"threads is {threads}; it must be at least 1")
        self._threads = threads
        folder = RunFolder(run)
        model = folder.load_model(threads)
        facts = folder.config["dataset"]
        self.dense_names, self.id_names = list(facts["dense"]), list(facts["categorical"])
        self.num_dense, self.num_tables = len(self.dense_names), len(self.id_names)
        self._transform, self._range = facts["dense_transform"], facts.get("max_ind_range")
        arrays = [*model.parameters().values(), *model.embedding.tables().values()]
        self.num_bytes = sum(array.nbytes for array in arrays)
        digests = folder.config.get("digests", {"models": [""]})["models"]
        self.version = str(digests[-1])[:16]
        self._embedding, self._interaction = model.embedding, model.config.interaction
        parameters = model.parameters()
        self._bottom = PackedMLP(layers_of(parameters, "bottom"), final_relu=True)
        self._top = PackedMLP(layers_of(parameters, "top"), final_relu=False)

    def __call__(self, dense: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """Score rows as they are in a log, before `robe ingest`.

        Parameters
        ----------
        dense : ndarray, (rows, num_dense) float32 or float64
            Raw dense features; NaN is a missing value.
        ids : ndarray, (rows, num_tables) int32, int64, uint32 or uint64
            Raw ids, 0 where missing. Signed ids are read as two's complement.

        Returns
        -------
        ndarray, (rows,) float32
            Click probabilities.

        Raises
        ------
        TypeError, ValueError
            Another dtype, shape or order, an infinite dense value, or an id outside its table.
        """
        check_array("dense", dense, (len(dense), self.num_dense), ARRAY_DTYPES)
        check_array("ids", ids, (len(dense), self.num_tables), INDEX_DTYPES)
        if np.isinf(dense).any():
            raise ValueError("dense has an infinite value; values must be finite, NaN if missing")
        ids = as_uint64(ids)
        if self._range is not None:
            ids = ids % np.uint64(self._range)
        out = np.empty(len(dense), np.float32)
        threads = num_threads() if self._threads is None else min(self._threads, num_threads())
        for first in range(0, len(dense), MOST_ROWS):
            rows = slice(first, first + MOST_ROWS)
            on_threads(threads, self._score, dense[rows], ids[rows], out[rows], threads)
        return out

    def _score(self, dense: np.ndarray, ids: np.ndarray, out: np.ndarray, threads: int) -> None:
        rows, dim = len(out), self._embedding.embedding_dim
        x = self._bottom.input(rows)
        x[:rows, : self.num_dense] = transform_dense(dense.astype(np.float64), self._transform)
        features = scratch("features", (rows, dim), np.float32)
        self._bottom(x, features, threads)
        joined = self._top.input(rows)
        if self._interaction == "dot":
            self._embedding.lookup_dot_interaction(ids, features, joined[:rows])
        else:
            embeddings = scratch("embeddings", (rows, self.num_tables, dim), np.float32)
            cat_interaction(
                features, self._embedding.lookup(ids, False, embeddings)[0], joined[:rows]
            )
        logits = scratch("logits", (rows, 1), np.float32)
        self._top(joined, logits, threads)
        sigmoids(logits.reshape(-1), out)
