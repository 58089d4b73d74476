"""Fit the laws of the generator to the columns of a real click log.

The constants of presets.py were made with these functions from 10,000 consecutive lines of each
log, as docs/generator.md describes. They run once per log, so clarity matters more than speed.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

# A column whose tenths already show this share of all its ids has a head and no tail.
SATURATED = 0.85
SHIFTS = np.geomspace(0.05, 300.0, 40)
_NORMAL_GRID = np.array([NormalDist().inv_cdf((i + 0.5) / 2000) for i in range(2000)])


class RankLaw(NamedTuple):
    """How often the ids of one categorical column appear, by rank (0 is the commonest).

    Rank 0 has the probability `head`; ranks 1 .. common - 1 follow Zipf and Mandelbrot's law,
    density (x + shift) ** -exponent at x = rank - 1.
    """

    head: float
    exponent: float
    shift: float
    common: int

    def cdf(self, rank: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Probability of an id of rank 1 .. rank - 1, given that it is not rank 0."""
        power = 1.0 - self.exponent

        def mass(x: npt.ArrayLike) -> npt.NDArray[np.float64]:
            return np.expm1(power * np.log1p(np.asarray(x, np.float64) / self.shift))

        return mass(np.asarray(rank, np.float64) - 1.0) / mass(self.common - 1)

    def expected_distinct(self, draws: float) -> float:
        """Expected number of different ids in `draws` independent draws."""
        dense_end = min(self.common, 3000)
        edges = np.unique(
            np.concatenate(
                [np.arange(1, dense_end), np.geomspace(dense_end, self.common, 800).round()]
            )
        )
        width = np.diff(edges)
        each = (1.0 - self.head) * np.diff(self.cdf(edges)) / width
        seen = -np.expm1(draws * np.log1p(-np.minimum(each, 1.0 - 1e-12)))
        return float(1.0 - (1.0 - self.head) ** draws + (width * seen).sum())


def fit_column(ids: Sequence[str], cardinality: int) -> RankLaw:
    """Fit the rank law of one categorical column to consecutive lines of a log.

    Parameters
    ----------
    ids : str (lines,)
        The fields of the column; empty ones are left out.
    cardinality : int
        Different ids in the whole log.

    Returns
    -------
    RankLaw
        `head` is the measured share of the commonest id. A long-tailed column gets the exponent
        that gives the measured number of distinct ids, and the shift that comes nearest to the mean
        number in a tenth of the lines. A column without a tail (nearly all its ids in every tenth)
        gets as many ids as were seen, and the measured share of its second commonest id.

    Raises
    ------
    ValueError
        Fewer than two different ids, or more than `cardinality`.
    """
    present = [value for value in ids if value]
    counts = sorted(Counter(present).values(), reverse=True)
    if not 2 <= len(counts) <= cardinality:
        raise ValueError(
            f"a fitted column has 2 to cardinality = {cardinality} different ids, but there are "
            f"{len(counts)}; pass a longer piece of the log or the right cardinality"
        )
    draws, distinct = len(present), len(counts)
    step = max(1, len(ids) // 10)
    pieces = [set(ids[i : i + step]) - {""} for i in range(0, len(ids), step)]
    tenth = sum(map(len, pieces)) / len(pieces)
    head = counts[0] / draws

    if distinct == cardinality or tenth > SATURATED * distinct:
        second = counts[1] / draws / (1.0 - head)
        exponent = _bisect(
            lambda s: float(RankLaw(head, s, 1.0, distinct).cdf(2)) - second, -3.0, 15.0
        )
        return RankLaw(head, exponent, 1.0, distinct)

    best, best_error = None, np.inf
    for shift in SHIFTS.tolist():

        def excess(s: float, shift: float = shift) -> float:
            return distinct - RankLaw(head, s, shift, cardinality).expected_distinct(draws)

        law = RankLaw(head, _bisect(excess, 0.2, 15.0), shift, cardinality)
        error = abs(np.log(law.expected_distinct(draws / 10) / tenth))
        if abs(excess(law.exponent)) < 0.02 * distinct and error < best_error:
            best, best_error = law, error
    if best is None:
        raise ValueError(f"no shift and exponent give {distinct} distinct ids in {draws} lines")
    return best


def fit_effect(ids: Sequence[str], clicks: npt.ArrayLike, least_count: int = 20) -> float:
    """Standard deviation of the log-odds of a click between the ids of one column.

    Parameters
    ----------
    ids : str (lines,)
        The fields of the column; empty counts as an id.
    clicks : 0 or 1 (lines,)
    least_count : int
        Rarer ids are left out.

    Returns
    -------
    float
        The excess of the variance of the ids' click rates over that of binomial draws (moment
        estimate of DerSimonian and Laird, 1986), as a deviation of the logit; 0 if there is none,
        or fewer than two ids are left.
    """
    _, inverse, counts = np.unique(np.asarray(ids), return_inverse=True, return_counts=True)
    clicked = np.bincount(inverse, np.asarray(clicks, np.float64))
    clicked, counts = clicked[counts >= least_count], counts[counts >= least_count]
    if len(counts) < 2:
        return 0.0
    lines = counts.sum()
    rate = clicked.sum() / lines
    binomial = rate * (1.0 - rate)
    if binomial == 0.0:
        return 0.0
    spread = (counts * (clicked / counts - rate) ** 2).sum() / binomial - (len(counts) - 1)
    excess = spread * binomial / (lines - (counts**2).sum() / lines)
    return float(np.sqrt(max(excess, 0.0)) / binomial)


class DenseLaw(NamedTuple):
    """One dense column: value = max(least, floor(exp(mu + sigma z))), z standard normal.

    `minus_one` and `below` are the shares of -1 and of smaller values among the non-empty;
    `mean_log` and `std_log` are moments of log(1 + max(x, 0)) over the non-empty values.
    """

    empty: float
    minus_one: float
    below: float
    least: int
    mu: float
    sigma: float
    mean_log: float
    std_log: float


def fit_dense(values: npt.NDArray[np.floating[Any]]) -> DenseLaw:
    """Fit one dense column by the first two moments of log(1 + x) of its values >= 0.

    Parameters
    ----------
    values : ndarray, (lines,) float
        NaN is empty.

    Returns
    -------
    DenseLaw

    Raises
    ------
    ValueError
        No value is >= 0.
    """
    present = values[~np.isnan(values)]
    counts = present[present >= 0]
    if not len(counts):
        raise ValueError("a dense column needs at least one value >= 0; there is none")
    least = int(min(counts.min(), 1))
    logs = np.log1p(counts)

    def simulated(mu: float, sigma: float) -> npt.NDArray[np.float64]:
        return np.log1p(np.maximum(least, np.floor(np.exp(mu + sigma * _NORMAL_GRID))))

    def mu_of(sigma: float) -> float:
        return _bisect(lambda mu: float(simulated(mu, sigma).mean() - logs.mean()), -20.0, 20.0)

    sigma = _bisect(lambda s: float(simulated(mu_of(s), s).std() - logs.std()), 0.05, 8.0)
    shown = np.log1p(np.maximum(present, 0))
    return DenseLaw(
        empty=float(np.isnan(values).mean()),
        minus_one=float((present == -1).mean()),
        below=float((present < -1).mean()),
        least=least,
        mu=mu_of(sigma),
        sigma=sigma,
        mean_log=float(shown.mean()),
        std_log=float(shown.std()),
    )


def _bisect(function: Callable[[float], float], low: float, high: float) -> float:
    """Zero of an increasing function; the nearer end where it has none in [low, high]."""
    for _ in range(45):
        middle = (low + high) / 2
        if function(middle) > 0:
            high = middle
        else:
            low = middle
    return (low + high) / 2
