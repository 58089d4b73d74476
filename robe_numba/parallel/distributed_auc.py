"""Exact AUC of rows that are spread over processes."""

from functools import reduce
from typing import NamedTuple

import numpy as np

from robe_numba.metrics import Ranking
from robe_numba.parallel.group import Group

SAMPLES = 256  # scores per process from which the ranges are chosen


class Scored(NamedTuple):
    """Some rows with their scores."""

    labels: np.ndarray  # (rows,)
    scores: np.ndarray  # (rows,)


def distributed_ranking(group: Group, labels: np.ndarray, scores: np.ndarray) -> Ranking:
    """Rank the rows of all processes, each of which sorts about the same number.

    Each process gets the rows of one range of scores. The ranges have about equally many rows, and
    equal scores are in the same range.

    Parameters
    ----------
    group : Group
        The processes.
    labels, scores : ndarray, (rows,)
        Of this process's rows, as for `robe_numba.metrics.auc`.

    Returns
    -------
    Ranking
        Of all rows, the same in all processes.
    """
    mine = Scored(labels, scores)
    if group.size > 1:
        mine = _rows_of_own_range(group, mine)
    return reduce(Ranking.below, group.all_gather(Ranking.of(*mine)))


def _rows_of_own_range(group: Group, rows: Scored) -> Scored:
    """The rows of all processes whose scores this process is to sort."""
    step = max(1, len(rows.scores) // SAMPLES)
    samples = np.sort(np.concatenate(group.all_gather(rows.scores[::step])))
    cuts = samples
    if len(samples):
        cuts = samples[len(samples) * np.arange(1, group.size) // group.size]
    owners = np.searchsorted(cuts, rows.scores, side="right")
    order = np.argsort(owners, kind="stable")
    ends = np.cumsum(np.bincount(owners, minlength=group.size))[:-1]
    parts = zip(*(np.split(column[order], ends) for column in rows), strict=True)
    received = group.all_to_all([Scored(*part) for part in parts])
    return Scored(*(np.concatenate(column) for column in zip(*received, strict=True)))
