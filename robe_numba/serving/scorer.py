"""A trained run in memory, which scores rows for any number of threads."""

import os
import threading

import numpy as np

from data_tools.options import DENSE_TRANSFORMS
from data_tools.sources.criteo.parser import transform_dense
from robe_numba.checks.arrays import ARRAY_DTYPES, check_array
from robe_numba.checks.ids import INDEX_DTYPES, as_uint64, check_indices
from robe_numba.dlrm import DLRM
from robe_numba.dlrm.embeddings.base import Embedding
from robe_numba.dlrm.embeddings.kinds import ArrayEmbedding
from robe_numba.dlrm.gradient_buffer import cross_layers_of, layers_of
from robe_numba.dlrm.layers.interaction import INTERACTIONS
from robe_numba.dlrm.layers.packed import PackedCross, PackedMLP, elements_worth
from robe_numba.dlrm.thread_pool import ThreadPool
from robe_numba.kernels.coefficients import hash_spec
from robe_numba.kernels.cpu.launch import ELEMENTS_PER_THREAD, num_threads, on_threads
from robe_numba.kernels.cpu.mlp import sigmoids
from robe_numba.memory import aligned_empty, scratch
from robe_numba.serving.kernel import find_infinite, kernel_model, score_rows
from robe_numba.spec import RobeSpec
from robe_numba.training.run.folder import RunFolder
from robe_numba.training.run.model_file import digest_of_model

MOST_ROWS = 8192  # that are scored at once, which bounds the memory of a call
# Waking a thread of a pool and waiting for it takes Python about 100 us.
WORK_PER_THREAD = 4 * ELEMENTS_PER_THREAD


class Scorer:
    """The model of a run, loaded once. Any number of threads may call it at a time.

    The score of a row has the same bits whatever rows are scored with it, for any number of
    threads. It differs from that of `robe predict` by rounding, as sums are in another order: by
    less than 1e-6 for most models, and by up to 1e-5 where their logits are sums of large numbers,
    as without a dense transform.

    Parameters
    ----------
    run : path
        Folder of a run, made by `robe train`.
    threads : int, optional
        Most threads of a call, used only where there are many rows; by default Numba's.
    storage : {"float32", "float16", "bfloat16", "int8"}
        How the embedding is kept in memory (see `Embedding.stored_as`). The layers are float32.

    Attributes
    ----------
    dense_names, id_names : list of str
        Columns of `dense` and `ids`, as in the log that the run learned from.
    num_dense, num_tables : int
        Their numbers.
    num_bytes : int
        Bytes of everything that scoring reads: embeddings, known ids and layers.
    version : str
        The first 16 hexadecimal digits of the model's digest.

    Raises
    ------
    ValueError, OSError
        The folder is not a run, its files are damaged or cannot be read, a weight is not finite,
        a feature is multi-hot, `threads` is not positive, or the storage is unknown or cannot hold
        a weight.
    ModuleNotFoundError
        bfloat16 without ml_dtypes.
    """

    def __init__(
        self,
        run: str | os.PathLike[str],
        *,
        threads: int | None = None,
        storage: str = "float32",
    ):
        if threads is not None and threads < 1:
            raise ValueError(f"threads is {threads}; it must be at least 1")
        folder = RunFolder(run)
        folder.check_single_ids("Scorer, as robe serve,")
        model = folder.load_model(threads, storage=storage)
        facts = folder.config["dataset"]
        self.dense_names, self.id_names = list(facts["dense"]), list(facts["categorical"])
        self.num_dense, self.num_tables = len(self.dense_names), len(self.id_names)
        # Where a dataset numbers its ids, their numbers are what is given.
        modulus = None if facts.get("vocabulary") else facts.get("max_ind_range")
        self._range = None if modulus is None else np.uint64(modulus)
        arrays = [*model.parameters().values(), *model.embedding.tables().values()]
        self.num_bytes = sum(array.nbytes for array in arrays)
        self.version = digest_of_model(folder.model_path, folder.config)[:16]
        self._transform = DENSE_TRANSFORMS.index(facts["dense_transform"])
        self._limited = _spec_with_limits(model.embedding)
        self._score = _scoring(model, facts["dense_transform"], threads)
        # Kernels compile at their first call.
        self(np.zeros((1, self.num_dense)), np.zeros((1, self.num_tables), np.int64))

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
            Another dtype, shape or order; a dense value that is infinite, or too large for float32
            once it is transformed; or an id outside its table.
        """
        values, ids = self._checked(dense, ids)
        out = np.empty(len(dense), np.float32)
        if len(out) <= MOST_ROWS:
            self._score(values, ids, out)
            return out
        for first in range(0, len(out), MOST_ROWS):
            rows = slice(first, first + MOST_ROWS)
            part = values[first * self.num_dense : (first + MOST_ROWS) * self.num_dense]
            self._score(part, ids[rows], out[rows])
        return out

    def check(self, dense: np.ndarray, ids: np.ndarray) -> None:
        """Raise the error of a call with these rows, without scoring them.

        Rows of several callers, each of which was checked, can be scored together.
        """
        self._checked(dense, ids)

    def _checked(self, dense: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Dense features, flat, and ids, uint64, of which all are legal."""
        check_array("dense", dense, (len(dense), self.num_dense), ARRAY_DTYPES)
        check_array("ids", ids, (len(dense), self.num_tables), INDEX_DTYPES)
        values = dense.astype(np.float64).reshape(-1)
        infinite = find_infinite(values, self._transform)
        if infinite >= 0:
            row, column = divmod(infinite, self.num_dense)
            raise ValueError(
                f"dense[{row}, {column}] is {values[infinite]}; it must be finite, in float32 too, "
                f"or NaN where it is missing"
            )
        ids = as_uint64(ids)
        if self._range is not None:
            ids = ids % self._range
        if self._limited is not None:
            check_indices(ids, self._limited, "ids")
        return values, ids


def _spec_with_limits(embedding: Embedding) -> RobeSpec | None:
    """The spec whose hash takes only numbers below a limit, as "uma" does; known ids have none."""
    spec = embedding.source[1] if isinstance(embedding, ArrayEmbedding) else None
    return spec if isinstance(spec, RobeSpec) and spec.num_embeddings is not None else None


class _Memory(threading.local):
    """What the kernel needs besides its arguments, for each thread that calls it.

    Its content means nothing between two calls, so whatever comes between them may use it too.
    """

    def __init__(self, size: int):
        self.floats = aligned_empty((size,), np.float32)


class _Fused:
    """A model of one array and dot products, as one kernel."""

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


class _Staged:
    """Any model, one stage after the other."""

    def __init__(self, model: DLRM, transform: str, threads: int | None):
        self._embedding, self._transform, self._threads = model.embedding, transform, threads
        self._num_dense, parameters = model.config.num_dense, model.parameters()
        self._interaction, _ = INTERACTIONS[model.config.interaction]
        self._bottom = PackedMLP(layers_of(parameters, "bottom"), final_relu=True)
        self._cross = PackedCross(cross_layers_of(parameters))
        self._top = PackedMLP(layers_of(parameters, "top"), final_relu=False)

    def __call__(self, dense: np.ndarray, ids: np.ndarray, out: np.ndarray) -> None:
        threads = num_threads() if self._threads is None else min(self._threads, num_threads())
        on_threads(threads, self._stages, dense, ids, out, threads)

    def _stages(self, dense: np.ndarray, ids: np.ndarray, out: np.ndarray, threads: int) -> None:
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


def _scoring(model: DLRM, transform: str, threads: int | None) -> _Fused | _Staged:
    """The fastest way to score with a model."""
    embedding = model.embedding
    if isinstance(embedding, ArrayEmbedding) and model.config.interaction == "dot":
        return _Fused(model, embedding, transform, threads)
    return _Staged(model, transform, threads)
