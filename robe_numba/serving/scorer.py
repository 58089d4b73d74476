"""A trained run in memory, ready to score rows from many threads."""

import os
from functools import cached_property

import numpy as np

from data_tools.sources.criteo.parser import transform_dense
from robe_numba.checks.arrays import check_array
from robe_numba.checks.ids import INDEX_DTYPES
from robe_numba.training.run.folder import RunFolder

DENSE_DTYPES = (np.dtype(np.float32), np.dtype(np.float64))


class Scorer:
    """The model of a run, loaded once; calls may come from several threads at a time.

    Parameters
    ----------
    run : path
        Folder of a run, made by `robe train`.
    threads : int, optional
        Threads of a call with many rows; by default Numba's.

    Attributes
    ----------
    num_dense, num_tables : int
        Columns of `dense` and `ids`.
    dense_names, id_names : list of str
        Their names in the log that the run learned from.
    version : str
        The digest of the model: 16 hexadecimal digits; another one for other weights.

    Raises
    ------
    ValueError, OSError
        The folder is not a run, or its files are damaged or cannot be read.
    """

    def __init__(self, run: str | os.PathLike[str], *, threads: int | None = None):
        folder = RunFolder(run)
        self._model = folder.load_model(threads)
        facts = folder.config["dataset"]
        self.dense_names, self.id_names = list(facts["dense"]), list(facts["categorical"])
        self.num_dense, self.num_tables = len(self.dense_names), len(self.id_names)
        self._transform, self._range = facts["dense_transform"], facts.get("max_ind_range")
        digests = folder.config.get("digests", {"models": ["0" * 16]})
        self.version = str(digests["models"][-1])[:16]

    @cached_property
    def num_bytes(self) -> int:
        """Bytes of everything that scoring reads."""
        arrays = [*self._model.parameters().values(), *self._model.embedding.tables().values()]
        return sum(array.nbytes for array in arrays)

    def __call__(self, dense: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """Score rows as they are in a log, before `robe ingest`.

        Parameters
        ----------
        dense : ndarray, (rows, num_dense) float32 or float64
            Raw dense features; NaN is a missing value.
        ids : ndarray, (rows, num_tables) int32, int64, uint32 or uint64
            Raw ids; 0 is a missing value. Signed ones are read as two's complement.

        Returns
        -------
        ndarray, (rows,) float32
            Click probabilities, those of `robe predict`.

        Raises
        ------
        TypeError, ValueError
            Another dtype, shape or order, or an infinite dense value.
        """
        check_array("dense", dense, (len(dense), self.num_dense), DENSE_DTYPES)
        check_array("ids", ids, (len(dense), self.num_tables), INDEX_DTYPES)
        if np.isinf(dense).any():
            raise ValueError("dense has an infinite value; it must be finite, or NaN if missing")
        values = transform_dense(dense.astype(np.float64), self._transform)
        if self._range is not None:
            ids = (ids.view(f"u{ids.itemsize}")).astype(np.uint64) % np.uint64(self._range)
        return self._model.predict(values, ids)
