"""Exact AUC of rows that are spread over processes."""

from functools import reduce
from typing import NamedTuple

import numpy as np

from robe_numba.metrics import Ranking
from robe_numba.parallel.group import Group

SAMPLES = 256  # scores that each process shows, to find where to cut


class Scored(NamedTuple):
    """Some rows."""

    labels: np.ndarray  # (rows,)
    scores: np.ndarray  # (rows,)


def ranking(group: Group, labels: np.ndarray, scores: np.ndarray) -> Ranking:
    """The ranking of the rows of all processes, each of which sorts about as many.

    Every process gets the rows of a range of scores, the same number in each range but for ties
    and luck; equal scores are never parted.

    Parameters
    ----------
    labels, scores : as `robe_numba.metrics.auc` takes them, of this process's rows.
    """
    mine = Scored(labels, scores)
    if group.size > 1:
        mine = _of_one_range(group, mine)
    return reduce(Ranking.below, group.collect(Ranking.of(*mine)))


def _of_one_range(group: Group, rows: Scored) -> Scored:
    """The rows of all processes with the scores that this process is to sort."""
    step = max(1, len(rows.scores) // SAMPLES)
    shown = np.sort(np.concatenate(group.collect(rows.scores[::step])))
    cuts = shown[len(shown) * np.arange(1, group.size) // group.size] if len(shown) else shown
    owners = np.searchsorted(cuts, rows.scores, side="right")
    order = np.argsort(owners, kind="stable")
    ends = np.cumsum(np.bincount(owners, minlength=group.size))[:-1]
    parts = zip(*(np.split(column[order], ends) for column in rows), strict=True)
    received = group.exchange([Scored(*part) for part in parts])
    return Scored(*(np.concatenate(column) for column in zip(*received, strict=True)))
