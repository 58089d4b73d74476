"""How good predicted click probabilities are: AUC, log loss, normalised entropy, calibration."""

import numpy as np


def auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Area under the ROC curve, exact: P(score of a click > score of a non-click), ties half.

    With R the sum of the clicks' ranks (mean ranks on ties) this is the Mann-Whitney statistic
    (R - p (p + 1) / 2) / (p n) for p clicks and n non-clicks. O(rows log rows).

    Parameters
    ----------
    labels : any real dtype or bool (rows,), each 0 or 1
    scores : any real dtype (rows,); only their order matters

    Raises
    ------
    ValueError : shapes differ, a label is not 0 or 1, a score is NaN, or all labels are equal.
    """
    labels, scores = _checked(labels, scores, "scores")
    clicks = labels == 1
    positives = int(clicks.sum())
    negatives = len(labels) - positives
    if positives == 0 or negatives == 0:
        raise ValueError(
            f"AUC needs both classes, but the {len(labels)} labels hold {positives} ones; "
            f"use more rows"
        )
    order = np.argsort(scores, kind="stable")
    ordered = scores[order]
    # Rows of one score form a group; a group's rows share the mean of its 1-based ranks.
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    ends = np.append(starts[1:], len(ordered))
    # In whole numbers: twice the mean rank is start + end + 1.
    clicks_per_group = np.add.reduceat(clicks[order].astype(np.int64), starts)
    twice_rank_sum = int(np.sum(clicks_per_group * (starts + ends + 1)))
    return (twice_rank_sum - positives * (positives + 1)) / (2 * positives * negatives)


def log_loss(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean binary cross-entropy in nats, -mean(y log p + (1 - y) log(1 - p)).

    Probabilities are clipped to [eps, 1 - eps] with eps the spacing of their dtype at 1, so that
    a wrong certainty costs much but not infinitely much.

    Parameters
    ----------
    labels : any real dtype or bool (rows,), each 0 or 1
    probabilities : float32 or float64 (rows,), in [0, 1]

    Raises
    ------
    ValueError : shapes differ, no rows, or a value is out of range.
    """
    labels, probabilities = _checked_probabilities(labels, probabilities)
    eps = np.finfo(probabilities.dtype).eps
    p = np.clip(probabilities, eps, 1 - eps).astype(np.float64)
    return float(-np.where(labels == 1, np.log(p), np.log1p(-p)).mean())


def normalized_entropy(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Log loss over that of always predicting the mean click rate; below 1 is better than that.

    Parameters as `log_loss`. Source: He et al., Practical Lessons from Predicting Clicks on Ads
    at Facebook, ADKDD 2014.

    Raises
    ------
    ValueError : as `log_loss`, or all labels are equal, whose entropy is 0.
    """
    loss = log_loss(labels, probabilities)
    rate = float(np.mean(labels, dtype=np.float64))
    if rate in (0.0, 1.0):
        raise ValueError("normalised entropy needs both classes, but all labels are equal")
    return loss / -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate))


def calibration(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean predicted over mean observed click rate; 1 is calibrated, above 1 predicts too many.

    Parameters as `log_loss`.

    Raises
    ------
    ValueError : as `log_loss`, or no label is 1.
    """
    labels, probabilities = _checked_probabilities(labels, probabilities)
    observed = float(np.mean(labels, dtype=np.float64))
    if observed == 0:
        raise ValueError("calibration divides by the observed click rate, but no label is 1")
    return float(np.mean(probabilities, dtype=np.float64)) / observed


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
    if not len(labels):
        raise ValueError("there are no rows to score")
    if probabilities.dtype.kind != "f" or probabilities.min() < 0 or probabilities.max() > 1:
        raise ValueError("probabilities must be floating-point and in [0, 1]; apply sigmoid first")
    return labels, probabilities
