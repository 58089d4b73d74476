"""How good predicted click probabilities are: AUC, log loss, normalised entropy, calibration.

Each is made of sums, so processes that have a part of the rows each can add theirs up.
"""

from typing import NamedTuple, Self

import numpy as np


class Ranking(NamedTuple):
    """What AUC is made of, in whole numbers; making it takes O(rows log rows).

    Parameters
    ----------
    rows : int
        How many rows.
    clicks : int
        How many of them are clicks.
    twice_ranks : int
        Twice the sum of the clicks' ranks by score, from 1, with mean ranks on ties.
    """

    rows: int
    clicks: int
    twice_ranks: int

    @classmethod
    def of(cls, labels: np.ndarray, scores: np.ndarray) -> Self:
        """The ranking of rows, as `auc` takes them, with its errors; there may be no rows."""
        labels, scores = _checked(labels, scores, "scores")
        if not len(labels):
            return cls(0, 0, 0)
        clicks = labels == 1
        order = np.argsort(scores, kind="stable")
        ordered = scores[order]
        # Rows of one score form a group; a group's rows share the mean of its 1-based ranks.
        starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
        ends = np.append(starts[1:], len(ordered))
        # In whole numbers: twice the mean rank is start + end + 1.
        clicks_per_group = np.add.reduceat(clicks[order].astype(np.int64), starts)
        twice_ranks = int(np.sum(clicks_per_group * (starts + ends + 1)))
        return cls(len(labels), int(clicks.sum()), twice_ranks)

    def below(self, other: Self) -> Self:
        """The ranking of these rows and others, all of which have higher scores."""
        return type(self)(
            self.rows + other.rows,
            self.clicks + other.clicks,
            self.twice_ranks + other.twice_ranks + 2 * self.rows * other.clicks,
        )

    @property
    def auc(self) -> float:
        """The Mann-Whitney statistic; ValueError if all labels are equal."""
        others = self.rows - self.clicks
        if self.clicks == 0 or others == 0:
            raise ValueError(
                f"AUC needs both classes, but the {self.rows} labels hold {self.clicks} ones; use "
                f"more rows"
            )
        least = self.clicks * (self.clicks + 1)
        return (self.twice_ranks - least) / (2 * self.clicks * others)


class Fit(NamedTuple):
    """What the metrics of probabilities are made of.

    Parameters
    ----------
    rows, clicks : int
        How many.
    losses : float
        The sum of the rows' cross-entropies.
    probabilities : float
        Their sum.
    """

    rows: int
    clicks: int
    losses: float
    probabilities: float

    @classmethod
    def of(cls, labels: np.ndarray, probabilities: np.ndarray) -> Self:
        """The fit of rows, as `log_loss` takes them, with its errors; there may be no rows."""
        labels, probabilities = _checked_probabilities(labels, probabilities)
        eps = np.finfo(probabilities.dtype).eps
        p = np.clip(probabilities, eps, 1 - eps).astype(np.float64)
        losses = -np.where(labels == 1, np.log(p), np.log1p(-p)).sum()
        total = np.sum(probabilities, dtype=np.float64)
        return cls(len(labels), int(np.sum(labels == 1)), float(losses), float(total))

    def beside(self, other: Self) -> Self:
        """The fit of these rows and others."""
        return type(self)(
            self.rows + other.rows,
            self.clicks + other.clicks,
            self.losses + other.losses,
            self.probabilities + other.probabilities,
        )

    @property
    def click_rate(self) -> float:
        """Share of clicks; ValueError without rows."""
        if not self.rows:
            raise ValueError("there are no rows to score")
        return self.clicks / self.rows

    @property
    def log_loss(self) -> float:
        """As the function `log_loss`; ValueError without rows."""
        if not self.rows:
            raise ValueError("there are no rows to score")
        return self.losses / self.rows

    @property
    def normalized_entropy(self) -> float:
        """As the function `normalized_entropy`; ValueError if all labels are equal."""
        loss, rate = self.log_loss, self.click_rate
        if rate in (0.0, 1.0):
            raise ValueError("normalised entropy needs both classes, but all labels are equal")
        return float(loss / -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate)))

    @property
    def calibration(self) -> float:
        """As the function `calibration`; ValueError without clicks."""
        if self.click_rate == 0:
            raise ValueError("calibration divides by the observed click rate, but no label is 1")
        return self.probabilities / self.rows / self.click_rate


def auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Area under the ROC curve, exact: P(score of a click > score of a non-click), ties half.

    With R the sum of the clicks' ranks (mean ranks on ties) this is the Mann-Whitney statistic
    (R - p (p + 1) / 2) / (p n) for p clicks and n non-clicks.

    Parameters
    ----------
    labels : ndarray, (rows,) of any real dtype or bool
        Each 0 or 1.
    scores : ndarray, (rows,) of any real dtype
        Only their order matters.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    ValueError
        Shapes differ, a label is not 0 or 1, a score is NaN, or all labels are equal.
    """
    return Ranking.of(labels, scores).auc


def log_loss(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean binary cross-entropy in nats, -mean(y log p + (1 - y) log(1 - p)).

    Probabilities are clipped to [eps, 1 - eps], with eps the spacing of their dtype at 1, so that a
    wrong certainty costs much but not infinitely much.

    Parameters
    ----------
    labels : ndarray, (rows,) of any real dtype or bool
        Each 0 or 1.
    probabilities : ndarray, (rows,) float32 or float64
        In [0, 1].

    Returns
    -------
    float
        In nats.

    Raises
    ------
    ValueError
        Shapes differ, no rows, or a value is out of range.
    """
    return Fit.of(labels, probabilities).log_loss


def normalized_entropy(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Log loss divided by that of always predicting the mean click rate; below 1 is better.

    Parameters
    ----------
    labels, probabilities : ndarray, (rows,)
        As `log_loss` takes them.

    Returns
    -------
    float
        At least 0.

    Raises
    ------
    ValueError
        As `log_loss`, or all labels are equal: their entropy is 0.

    Notes
    -----
    Source: He et al., Practical Lessons from Predicting Clicks on Ads at Facebook, ADKDD 2014.
    """
    return Fit.of(labels, probabilities).normalized_entropy


def calibration(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean predicted click rate divided by the observed one; above 1 predicts too many.

    Parameters
    ----------
    labels, probabilities : ndarray, (rows,)
        As `log_loss` takes them.

    Returns
    -------
    float
        1 is calibrated.

    Raises
    ------
    ValueError
        As `log_loss`, or no label is 1.
    """
    return Fit.of(labels, probabilities).calibration


def _checked(labels: np.ndarray, values: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    labels, values = np.asarray(labels), np.asarray(values)
    if labels.ndim != 1 or labels.shape != values.shape:
        raise ValueError(
            f"labels and {name} must be flat and equally long, got {labels.shape} and "
            f"{values.shape}"
        )
    if not np.all((labels == 0) | (labels == 1)):
        raise ValueError("labels must be 0 or 1")
    if np.isnan(values).any():
        raise ValueError(f"{name} hold NaN; the model has diverged or the input is bad")
    return labels, values


def _checked_probabilities(
    labels: np.ndarray, probabilities: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    labels, probabilities = _checked(labels, probabilities, "probabilities")
    if probabilities.dtype.kind != "f" or not np.all((probabilities >= 0) & (probabilities <= 1)):
        raise ValueError("probabilities must be floating-point and in [0, 1]; apply sigmoid first")
    return labels, probabilities
