"""A trained run in memory, which scores rows for any number of threads."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from data_tools.options import DENSE_TRANSFORMS
from robe_numba.checks.arrays import ARRAY_DTYPES, check_array
from robe_numba.checks.ids import INDEX_DTYPES, as_uint64, check_inside
from robe_numba.dlrm.bags import MultiHot
from robe_numba.dlrm.embeddings.base import Embedding
from robe_numba.dlrm.embeddings.kinds import ArrayEmbedding
from robe_numba.serving.kernel import find_infinite
from robe_numba.serving.lists import MOST_ROWS, ListInput, check_no_lists
from robe_numba.serving.made_lists import MadeLists
from robe_numba.serving.pipelines import pipeline_for
from robe_numba.spec import RobeSpec
from robe_numba.training.run.folder import RunFolder
from robe_numba.training.run.model_file import digest_of_model


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
    dense_names, id_names, multi_hot_names : list of str
        Columns of `dense`, `ids` and `lengths`, as in the log that the run learned from.
    num_dense, num_tables, num_multi_hot : int
        Their numbers.
    weight_names : list of (str or None)
        For each multi-hot feature the column of its weights; empty if no feature has weights.
    num_bytes : int
        Bytes of everything that scoring reads: embeddings, known ids and layers.
    version : str
        The first 16 hexadecimal digits of the model's digest.

    Raises
    ------
    ValueError, OSError
        The folder is not a run, its files are damaged or cannot be read, a weight is not finite,
        it has both lists that were made of single ids (`--multi-hot-sizes`) and others, `threads`
        is not positive, or the storage is unknown or cannot hold a weight.
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
        model = folder.load_model(threads, storage=storage)
        facts = folder.config["dataset"]
        # Where a dataset numbers its ids, their numbers are what is given.
        modulus = None if facts.get("vocabulary") else facts.get("max_ind_range")
        self._range = None if modulus is None else np.uint64(modulus)
        arrays = [*model.parameters().values(), *model.embedding.tables().values()]
        self.num_bytes = sum(array.nbytes for array in arrays)
        self.version = digest_of_model(folder.model_path, folder.config)[:16]
        self._transform = DENSE_TRANSFORMS.index(facts["dense_transform"])
        self._limited = _spec_with_limits(model.embedding)
        self._lists = _lists_of(folder, self._range, self._limited)
        self._name_columns(facts)
        self._score: Any = pipeline_for(model, facts["dense_transform"], threads)
        self(*self.missing(1))  # kernels compile at their first call

    def _name_columns(self, facts: Mapping[str, Any]) -> None:
        """Set the attributes that name and count columns."""
        lists = self._lists
        self.dense_names: list[str] = list(facts["dense"])
        self.id_names: list[str] = list(facts["categorical"]) if lists is None else lists.id_names
        self.multi_hot_names: list[str] = [] if lists is None else lists.names
        self.weight_names: list[str | None] = [] if lists is None else lists.weight_names
        self.num_dense, self.num_tables = len(self.dense_names), len(self.id_names)
        self.num_multi_hot = len(self.multi_hot_names)

    def missing(self, rows: int) -> tuple[np.ndarray, np.ndarray, MultiHot | None]:
        """Arguments of a call with rows of which every value is missing and every list empty."""
        multi_hot = None
        if self.num_multi_hot:
            lengths = np.zeros((rows, self.num_multi_hot), np.int64)
            weights = np.empty(0, np.float32) if self.weight_names else None
            multi_hot = (np.empty(0, np.int64), lengths, weights)
        dense = np.full((rows, self.num_dense), np.nan, np.float32)
        return dense, np.zeros((rows, self.num_tables), np.int64), multi_hot

    def __call__(
        self, dense: np.ndarray, ids: np.ndarray, multi_hot: MultiHot | None = None
    ) -> np.ndarray:
        """Score rows as they are in a log, before `robe ingest`.

        Parameters
        ----------
        dense : ndarray, (rows, num_dense) float32 or float64
            Raw dense features; NaN is a missing value.
        ids : ndarray, (rows, num_tables) int32, int64, uint32 or uint64
            Raw ids, 0 where missing. Signed ids are read as two's complement. Where the dataset
            numbered its ids, their numbers.
        multi_hot : (values, lengths, weights), optional
            Lists of raw ids, for a run that has them. Rows of several callers are joined by joining
            each of the three.

            lengths : ndarray, (rows, num_multi_hot) int32, int64, uint32 or uint64
                Ids of each list.
            values : ndarray, (sum of lengths,) of such a dtype
                The ids: row after row, in a row feature after feature. Of a list that is longer
                than the `--max-length` of the run's dataset, the last ids count.
            weights : ndarray, (sum of lengths,) float32; or None
                Of the ids, 1 for features without weights. None if no feature has weights.

        Returns
        -------
        ndarray, (rows,) float32
            Click probabilities.

        Raises
        ------
        TypeError, ValueError
            Another dtype, shape or order; a dense value that is infinite, or too large for float32
            once it is transformed; an id outside its table; lists that are missing or not expected;
            lengths that are negative or do not add up to the number of values; more ids in the
            lists of a row than can be scored at once, 131,072; or a weight that is not finite, or
            not 1 for a feature without weights.
        """
        values, ids, lists = self._checked(dense, ids, multi_hot)
        out = np.empty(len(dense), np.float32)
        if self._lists is not None:
            for first, last, bags in self._lists.bags(ids, lists):
                part = values[first * self.num_dense : last * self.num_dense]
                self._score(part, bags, out[first:last])
            return out
        if len(out) <= MOST_ROWS:
            self._score(values, ids, out)
            return out
        for first in range(0, len(out), MOST_ROWS):
            rows = slice(first, first + MOST_ROWS)
            part = values[first * self.num_dense : (first + MOST_ROWS) * self.num_dense]
            self._score(part, ids[rows], out[rows])
        return out

    def check(self, dense: np.ndarray, ids: np.ndarray, multi_hot: MultiHot | None = None) -> None:
        """Raise the error of a call with these rows, without scoring them.

        Rows of several callers, each of which was checked, can be scored together.
        """
        self._checked(dense, ids, multi_hot)

    def _checked(
        self, dense: np.ndarray, ids: np.ndarray, multi_hot: MultiHot | None
    ) -> tuple[np.ndarray, np.ndarray, Any]:
        """Dense features, flat, ids, uint64, and lists, of which all are legal."""
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
            check_inside(ids, self._limited, "ids")
        if self._lists is not None:
            return values, ids, self._lists.checked(len(dense), multi_hot)
        check_no_lists(multi_hot)
        return values, ids, None


def _spec_with_limits(embedding: Embedding) -> RobeSpec | None:
    """The spec whose hash takes only numbers below a limit, as "uma" does; known ids have none."""
    spec = embedding.source[1] if isinstance(embedding, ArrayEmbedding) else None
    return spec if isinstance(spec, RobeSpec) and spec.num_embeddings is not None else None


def _lists_of(
    folder: RunFolder, modulus: np.uint64 | None, limited: RobeSpec | None
) -> ListInput | MadeLists | None:
    """What brings the lists of a run into the form of bags; None for a run of single ids."""
    facts = folder.config["dataset"]
    if not facts.get("multi_hot"):
        return None
    if facts.get("multi_hot_sizes") and max(facts["multi_hot_sizes"]) > 1:
        return MadeLists(folder, limited)
    return ListInput(folder, modulus, limited)
