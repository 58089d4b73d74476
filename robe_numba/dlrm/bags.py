"""The ids of a batch as bags: those of features with a single id beside those with lists of ids."""

from typing import Any, NamedTuple

import numpy as np

from robe_numba.checks.ids import INDEX_DTYPES
from robe_numba.dlrm.backends import Backend, backend_for, device_of, to_numpy
from robe_numba.dlrm.config import DLRMConfig

MultiHot = tuple[Any, Any, Any]  # as `Batch.multi_hot`
MULTI_HOT = ("values", "offsets", "weights or None")


class Bags(NamedTuple):
    """The ids of all features of a batch, as `embedding_bag` takes them: table-major.

    Attributes
    ----------
    values : ndarray, (n,) int32, int64, uint32 or uint64
        Ids, or row numbers.
    offsets : ndarray, (num_tables * batch + 1,) int64
        The ids of table t in row b are values[offsets[t * batch + b]:offsets[t * batch + b + 1]].
    weights : ndarray, (n,) of the dtype of the embeddings
        Of the ids; None if none has one.
    modes : tuple of str
        How the ids of each table are pooled; "sum" for tables of single ids.
    """

    values: Any
    offsets: Any
    weights: Any
    modes: tuple[str, ...]

    @property
    def batch(self) -> int:
        """Rows of the batch."""
        return (len(self.offsets) - 1) // len(self.modes)

    def arguments(self) -> dict[str, Any]:
        """What `embedding_bag` and its gradient and updates take, by name."""
        return {
            "indices": self.values,
            "offsets": self.offsets,
            "mode": self.modes if len(set(self.modes)) > 1 else self.modes[0],
            "per_sample_weights": self.weights,
        }

    def of_rows(self, rows: slice) -> "Bags":
        """The bags of consecutive rows; on a GPU this waits for it, unless they are all."""
        start, stop, _ = rows.indices(self.batch)
        if stop - start == self.batch:
            return self
        xp = backend_for(device_of(self.offsets)).xp
        ends = self.offsets[1:].reshape(len(self.modes), -1)
        begins = self.offsets[:-1].reshape(len(self.modes), -1)
        lengths = (ends - begins)[:, start:stop].reshape(-1)
        firsts, lasts = (to_numpy(bounds) for bounds in (begins[:, start], ends[:, stop - 1]))

        def cut(array: Any) -> Any:
            return xp.concatenate([array[i:j] for i, j in zip(firsts, lasts, strict=True)])

        weights = None if self.weights is None else cut(self.weights)
        return Bags(cut(self.values), offsets_of(xp, lengths), weights, self.modes)


def modes_of(num_tables: int, pooling: tuple[str, ...]) -> tuple[str, ...]:
    """How each table is pooled, given the modes of the last ones; the others have single ids."""
    return ("sum",) * (num_tables - len(pooling)) + pooling


def offsets_of(xp: Any, lengths: Any) -> Any:
    """Offsets int64 (k + 1,) of bags, given the number of ids in each, (k,)."""
    offsets = xp.zeros(len(lengths) + 1, np.int64)
    xp.cumsum(lengths, out=offsets[1:])
    return offsets


def check_ids(
    backend: Backend,
    config: DLRMConfig,
    rows: int,
    indices: Any,
    multi_hot: MultiHot | None,
    dtype: np.dtype,
) -> tuple[Any, MultiHot | None]:
    """The ids of a batch as arrays of the backend, if they fit a model.

    Parameters
    ----------
    backend : Backend
        Of the model.
    config : DLRMConfig
        Says how many features have a single id, and how many are multi-hot (T2).
    rows : int
        Of the batch.
    indices : array, (rows, num_single) int32, int64, uint32 or uint64
        Of the features with a single id.
    multi_hot : (values, offsets, weights), optional
        Values (n,) of the dtype of `indices`; offsets (T2 * rows + 1,), integers, table-major;
        weights (n,) of `dtype` or float32, or None. None for a model of single ids alone.
    dtype : dtype
        Of the embeddings.

    Returns
    -------
    indices : array
        As given.
    lists : (values, offsets, weights), optional
        Offsets are int64 and weights of `dtype`; None for a model of single ids alone.

    Raises
    ------
    TypeError, ValueError
        Lists are missing or not expected, shapes or dtypes do not fit, or, on the CPU, offsets do
        not rise from 0 to n.
    """
    backend.check("indices", indices, (rows, config.num_single), INDEX_DTYPES)
    indices, num_features = backend.asarray(indices), len(config.pooling)
    if not num_features:
        if multi_hot is not None:
            raise ValueError(
                "multi_hot was given, but every feature of the model has a single id; leave it "
                "out, or say how lists are pooled in DLRMConfig(pooling=...)"
            )
        return indices, None
    if not isinstance(multi_hot, tuple) or len(multi_hot) != len(MULTI_HOT):
        found = "None" if multi_hot is None else f"a {type(multi_hot).__name__}"
        if isinstance(multi_hot, tuple):
            found += f" of {len(multi_hot)}"
        raise ValueError(
            f"the model has {num_features} multi-hot features, but multi_hot is {found}; give the "
            f"tuple ({', '.join(MULTI_HOT)}), as Batch.multi_hot is"
        )
    values, offsets, weights = multi_hot
    count = (np.shape(values) or (0,))[:1]
    backend.check("values", values, count, (indices.dtype,))
    backend.check("offsets", offsets, (num_features * rows + 1,), INDEX_DTYPES)
    values, offsets = (backend.asarray(array) for array in (values, offsets))
    backend.check_offsets(offsets, len(values))
    if weights is not None:
        dtypes = tuple(dict.fromkeys((dtype, np.dtype(np.float32))))  # each once
        backend.check("weights", weights, (len(values),), dtypes)
        weights = backend.asarray(weights).astype(dtype, copy=False)
    return indices, (values, offsets.astype(np.int64, copy=False), weights)


def bags_of(xp: Any, indices: Any, multi_hot: MultiHot, pooling: tuple[str, ...]) -> Bags:
    """The bags of all features: single ids are bags of one.

    Parameters
    ----------
    xp : module
        NumPy or CuPy.
    indices : array, (batch, T1)
        Of the features with a single id.
    multi_hot : (values, offsets, weights)
        From `check_ids`, of the features after them.
    pooling : tuple of str
        How those are pooled.

    Returns
    -------
    Bags
        Of new memory, or that of `multi_hot` where no feature has a single id.
    """
    values, offsets, weights = multi_hot
    modes = modes_of(indices.shape[1] + len(pooling), pooling)
    if not indices.shape[1]:
        return Bags(values, offsets, weights, modes)
    singles = indices.T.reshape(-1)
    if weights is not None:
        weights = xp.concatenate([xp.ones(singles.size, weights.dtype), weights])
    return Bags(
        xp.concatenate([singles, values]),
        xp.concatenate([xp.arange(singles.size), offsets + singles.size]),
        weights,
        modes,
    )
