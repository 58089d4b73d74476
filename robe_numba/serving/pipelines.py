"""The ways to score rows with a model: as one kernel, or one stage after the other."""

import threading

import numpy as np

from data_tools.options import DENSE_TRANSFORMS
from data_tools.sources.criteo.parser import transform_dense
from robe_numba.checks.ids import check_indices
from robe_numba.dlrm import DLRM
from robe_numba.dlrm.bags import Bags
from robe_numba.dlrm.embeddings.kinds import ArrayEmbedding
from robe_numba.dlrm.gradient_buffer import cross_layers_of, layers_of
from robe_numba.dlrm.layers.interaction import INTERACTIONS
from robe_numba.dlrm.layers.packed import PackedCross, PackedMLP, elements_worth
from robe_numba.dlrm.thread_pool import ThreadPool
from robe_numba.kernels.coefficients import hash_spec
from robe_numba.kernels.cpu.launch import ELEMENTS_PER_THREAD, num_threads, on_threads
from robe_numba.kernels.cpu.mlp import sigmoids
from robe_numba.memory import aligned_empty, scratch
from robe_numba.serving.kernel import kernel_model, score_rows

# Waking a thread of a pool and waiting for it takes Python about 100 us.
WORK_PER_THREAD = 4 * ELEMENTS_PER_THREAD


class _Memory(threading.local):
    """What the kernel needs besides its arguments, for each thread that calls it.

    Its content means nothing between two calls, so whatever comes between them may use it too.
    """

    def __init__(self, size: int):
        self.floats = aligned_empty((size,), np.float32)


class Fused:
    """A model of one array, single ids and dot products, as one kernel."""

    def __init__(self, model: DLRM, embedding: ArrayEmbedding, transform: str, threads: int | None):
        parameters, self._embedding = model.parameters(), embedding
        bottom = PackedMLP(layers_of(parameters, "bottom"), final_relu=True).layers
        top = PackedMLP(layers_of(parameters, "top"), final_relu=False).layers
        stored, self._spec = embedding.source
        number, constants = DENSE_TRANSFORMS.index(transform), hash_spec(self._spec)
        self._model = kernel_model(number, model.config.num_dense, stored, constants, bottom, top)
        self._work = elements_worth(bottom) + elements_worth(top)
        self._pool, self._memory = ThreadPool(threads), _Memory(self._model.memory)

    def __call__(self, dense: np.ndarray, ids: np.ndarray, out: np.ndarray) -> None:
        rows = len(out)
        if self._spec.num_embeddings is None:
            ids = ids.reshape(-1)
        else:
            numbers = on_threads(self._pool.threads, self._embedding.rows, ids)
            ids = check_indices(numbers, self._spec)
        parts = min(self._pool.threads, rows * self._work // WORK_PER_THREAD)
        if parts <= 1:
            self._score(dense, ids, 0, rows, out)
            return

        def score(part: int) -> None:
            self._score(dense, ids, rows * part // parts, rows * (part + 1) // parts, out)

        self._pool.run(score, parts, uses_blas=False)

    def _score(
        self, dense: np.ndarray, ids: np.ndarray, first: int, last: int, out: np.ndarray
    ) -> None:
        score_rows(dense, ids, first, last, self._model, self._memory.floats, out)


class Staged:
    """Any model, one stage after the other; with lists of ids it takes `Bags`."""

    def __init__(self, model: DLRM, transform: str, threads: int | None):
        self._embedding, self._transform, self._threads = model.embedding, transform, threads
        self._num_dense, parameters = model.config.num_dense, model.parameters()
        self._interaction, _ = INTERACTIONS[model.config.interaction]
        self._bottom = PackedMLP(layers_of(parameters, "bottom"), final_relu=True)
        self._cross = PackedCross(cross_layers_of(parameters))
        self._top = PackedMLP(layers_of(parameters, "top"), final_relu=False)

    def __call__(self, dense: np.ndarray, ids: np.ndarray | Bags, out: np.ndarray) -> None:
        threads = num_threads() if self._threads is None else min(self._threads, num_threads())
        on_threads(threads, self._stages, dense, ids, out, threads)

    def _stages(
        self, dense: np.ndarray, ids: np.ndarray | Bags, out: np.ndarray, threads: int
    ) -> None:
        rows, dim = len(out), self._embedding.embedding_dim
        x = self._bottom.input(rows)
        ready = transform_dense(dense, self._transform).reshape(rows, self._num_dense)
        x[:rows, : self._num_dense] = ready
        features = scratch("scorer_features", (rows, dim), np.float32)
        self._bottom(x, features, threads)
        embeddings, _ = self._embedding.lookup(ids, keep=False)
        joined = self._top.input(rows)
        self._interaction(features, embeddings, joined[:rows])
        self._cross(joined[:rows], threads)
        logits = scratch("scorer_logits", (rows, 1), np.float32)
        self._top(joined, logits, threads)
        sigmoids(logits.reshape(-1), out)


def pipeline_for(model: DLRM, transform: str, threads: int | None) -> Fused | Staged:
    """The fastest way to score with a model."""
    embedding, config = model.embedding, model.config
    if isinstance(embedding, ArrayEmbedding) and config.interaction == "dot" and not config.pooling:
        return Fused(model, embedding, transform, threads)
    return Staged(model, transform, threads)
