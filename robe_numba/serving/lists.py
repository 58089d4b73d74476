"""Lists of ids: row after row as callers give them, and table-major as embeddings are pooled."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from robe_numba.checks.arrays import check_array
from robe_numba.checks.ids import INDEX_DTYPES, as_uint64, raise_outside
from robe_numba.dlrm.bags import MULTI_HOT, Bags, MultiHot
from robe_numba.serving.list_kernels import (
    find_outside,
    find_wrong_weight,
    read_lengths,
    table_major,
)
from robe_numba.spec import RobeSpec
from robe_numba.training.run.folder import RunFolder

MOST_ROWS = 8192  # that are scored at once, which bounds the memory of a call
MOST_IDS = 1 << 17  # of their lists, and so of a row
NO_LIMIT = 2**63 - 1


class RowLists(NamedTuple):
    """Checked lists of some rows: row after row, in a row feature after feature.

    List i is of row i // T2 and feature i % T2. Its ids lie before ends[i], and the last kept[i]
    of them count.
    """

    values: np.ndarray  # uint64 (n,)
    weights: np.ndarray  # float32 (n,), or (0,) where no feature has weights
    ends: np.ndarray  # int64 (rows * T2,)
    kept: np.ndarray  # int64 (rows * T2,)


def check_no_lists(multi_hot: MultiHot | None) -> None:
    """Refuse lists for a run that takes none."""
    if multi_hot is not None:
        raise ValueError("multi_hot was given, but the run takes no lists; leave it out")


class ListInput:
    """The lists that a run takes beside single ids.

    Parameters
    ----------
    folder : RunFolder
        The run.
    modulus : uint64, optional
        What ids are taken modulo.
    limited : RobeSpec, optional
        The spec of the run's embedding if it takes only ids below a limit.

    Attributes
    ----------
    id_names : list of str
        The T1 features with a single id.
    names : list of str
        The T2 multi-hot features.
    weight_names : list of (str or None)
        For each the column of its weights; empty if none has weights.
    """

    def __init__(self, folder: RunFolder, modulus: np.uint64 | None, limited: RobeSpec | None):
        facts, config = folder.config["dataset"], folder.config["model"]
        self.id_names: list[str] = list(facts["categorical"])
        self.names: list[str] = list(facts["multi_hot"])
        self.weight_names: list[str | None] = list(facts.get("weights") or ())
        self._most = facts.get("max_length") or NO_LIMIT
        self._modulus, self._limited = modulus, limited
        self._num_single = len(self.id_names)
        self._modes = ("sum",) * self._num_single + tuple(config["pooling"])
        self._weighted = np.array([name is not None for name in self.weight_names])

    def checked(self, rows: int, multi_hot: MultiHot | None) -> RowLists:
        """The lists of a call, if they are legal; see `Scorer.__call__`."""
        if not isinstance(multi_hot, tuple) or len(multi_hot) != len(MULTI_HOT):
            found = "None" if multi_hot is None else f"a {type(multi_hot).__name__}"
            raise ValueError(
                f"the run has lists ({', '.join(self.names)}), but multi_hot is {found}; give the "
                f"tuple (values, lengths, {'weights' if self.weight_names else 'None'})"
            )
        values, lengths, weights = multi_hot
        check_array("values", values, (np.size(values),), INDEX_DTYPES)
        check_array("lengths", lengths, (rows, len(self.names)), INDEX_DTYPES)
        numbers = lengths.astype(np.int64).reshape(-1)
        ends, kept = np.empty_like(numbers), np.empty_like(numbers)
        wrong = int(read_lengths(numbers, len(values), self._most, ends, kept))
        if wrong >= 0:
            raise self._wrong_length(lengths, wrong, len(values))
        if len(values) > MOST_IDS:
            self._check_rows(kept)
        ids = as_uint64(values)
        if self._modulus is not None:
            ids = ids % self._modulus
        lists = RowLists(ids, self._checked_weights(weights, ends), ends, kept)
        if self._limited is not None:
            self._check_ids(values, lists, self._limited)
        return lists

    def _wrong_length(self, lengths: np.ndarray, wrong: int, count: int) -> ValueError:
        """The error of a list that is negative or too long, or of ids that no list has."""
        if wrong == lengths.size:
            return ValueError(
                f"lengths add up to {int(lengths.sum())}, but there are {count} values; give one "
                f"value for each id of a list"
            )
        row, feature = divmod(wrong, len(self.names))
        length, before = int(lengths[row, feature]), int(lengths.reshape(-1)[:wrong].sum())
        rule = "a list has 0 ids or more"
        if length > 0:
            rule = f"only {count - before} of the {count} values are left for it"
        return ValueError(f"lengths[{row}, {feature}] is {length}, but {rule}")

    def _check_rows(self, kept: np.ndarray) -> None:
        """Refuse rows with more ids than a call may hold in memory."""
        totals = kept.reshape(-1, len(self.names)).sum(axis=1)
        longest = int(totals.argmax())
        if totals[longest] > MOST_IDS:
            raise ValueError(
                f"the lists of row {longest} have {totals[longest]} ids; the most is {MOST_IDS}: "
                f"give the last ids of long lists"
            )

    def _checked_weights(self, weights: Any, ends: np.ndarray) -> np.ndarray:
        """Weights of all ids, which are 1 where a feature has none."""
        names = [name for name in self.weight_names if name is not None]
        if not names:
            if weights is not None:
                raise ValueError("weights were given, but the run had none; give None")
            return np.empty(0, np.float32)
        if weights is None:
            raise ValueError(
                f"weights are missing, which the run had ({', '.join(names)}); give one for each "
                f"value, 1 for ids of features without weights"
            )
        count = int(ends[-1]) if ends.size else 0
        check_array("weights", weights, (count,), (np.dtype(np.float32),))
        weights = weights if weights.flags.writeable else weights.copy()  # one type for kernels
        wrong = int(find_wrong_weight(weights, ends, self._weighted))
        if wrong >= 0:
            feature = int(np.searchsorted(ends, wrong, side="right")) % len(self.names)
            free = self.weight_names[feature] is not None
            rule = "must be finite" if free else "must be 1, as this feature has no weights"
            raise ValueError(
                f"weights[{wrong}] is {weights[wrong]}, of {self.names[feature]}; it {rule}"
            )
        return weights

    def _check_ids(self, values: np.ndarray, lists: RowLists, limited: RobeSpec) -> None:
        """Require ids below the limits of their tables."""
        limits = np.array(limited.num_embeddings, np.uint64)[self._num_single :]
        outside = int(find_outside(lists.values, lists.ends, lists.kept, limits))
        if outside >= 0:
            feature = int(np.searchsorted(lists.ends, outside, side="right")) % len(self.names)
            table = self._num_single + feature
            raise_outside(values[outside], f"values[{outside}]", table, limited)

    def bags(self, ids: np.ndarray, lists: RowLists) -> Iterator[tuple[int, int, Bags]]:
        """Bags of all features of as many rows as may be scored at once, until all had theirs.

        Parameters
        ----------
        ids : ndarray, (rows, T1) uint64
            Of the features with a single id.
        lists : RowLists
            From `checked`, of the features after them.

        Yields
        ------
        first, last : int
            Which rows.
        bags : Bags
            Of new memory.
        """
        features = len(self.names)
        ends = np.cumsum(lists.kept.reshape(-1, features).sum(axis=1))
        first = done = 0
        while first < len(ids):
            last = min(first + MOST_ROWS, int(np.searchsorted(ends, done + MOST_IDS, "right")))
            count, done = int(ends[last - 1]) - done, int(ends[last - 1])
            rows = last - first
            values = np.empty(rows * self._num_single + count, np.uint64)
            weights = np.empty(len(values) if self._weighted.any() else 0, np.float32)
            offsets = np.empty(rows * len(self._modes) + 1, np.int64)
            sizes = (self._num_single, features)
            table_major(ids.reshape(-1), lists, first, last, sizes, values, weights, offsets)
            given = weights if self._weighted.any() else None
            yield first, last, Bags(values, offsets, given, self._modes)
            first = last
