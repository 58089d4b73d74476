"""Metrics against scikit-learn and against hand-made cases."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss as sklearn_log_loss
from sklearn.metrics import roc_auc_score

from robe_numba.metrics import auc, calibration, log_loss, normalized_entropy

# Few distinct scores, so that most examples hold ties.
rows = st.lists(
    st.tuples(st.booleans(), st.one_of(st.integers(0, 4), st.floats(-1, 1))), min_size=2
)


@given(rows, st.sampled_from([np.float32, np.float64]))
def test_auc_equals_scikit_learn(pairs, dtype):
    labels = np.array([label for label, _ in pairs], np.float32)
    labels[:2] = 0, 1
    scores = np.array([score for _, score in pairs], dtype)
    assert auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


def test_auc_counts_pairs():
    labels, scores = np.array([1, 0, 1, 0]), np.array([3, 1, 2, 2])
    # (3 > 1), (3 > 2), (2 > 1) win, (2 = 2) is half.
    assert auc(labels, scores) == 3.5 / 4
    assert auc(labels, np.zeros(4)) == 0.5
    assert auc(labels, np.array([1.0, -np.inf, np.inf, 0])) == 1.0
    assert auc(labels.astype(bool), -scores) == 0.5 / 4


def test_auc_of_alternating_labels():
    n = 300_000
    labels = np.arange(n) % 2
    assert auc(labels, np.arange(n)) == (n // 2 + 1) / n


@pytest.mark.parametrize("labels", [[0, 0], [1, 1], []])
def test_auc_of_one_class_is_an_error(labels):
    with pytest.raises(ValueError, match="both classes"):
        auc(np.array(labels), np.zeros(len(labels)))


probabilities = st.lists(st.tuples(st.booleans(), st.floats(0, 1)), min_size=1)


@given(probabilities, st.sampled_from([np.float32, np.float64]))
def test_log_loss_equals_scikit_learn(pairs, dtype):
    labels = np.array([label for label, _ in pairs], np.float64)
    p = np.array([value for _, value in pairs], dtype)
    expected = sklearn_log_loss(labels, p, labels=[0, 1])
    # scikit-learn rounds 1 - p in the dtype of p.
    tolerance = 64 * float(np.finfo(dtype).eps)
    assert log_loss(labels, p) == pytest.approx(expected, rel=tolerance, abs=tolerance)


def test_log_loss_of_a_wrong_certainty_is_finite():
    loss = log_loss(np.array([1.0]), np.array([0.0], np.float32))
    assert loss == pytest.approx(23 * np.log(2))


def test_predicting_the_rate_has_entropy_and_calibration_one():
    labels = np.array([1, 0, 0, 0, 1], np.float32)
    rate = np.full(5, 0.4)
    assert normalized_entropy(labels, rate) == pytest.approx(1.0)
    assert calibration(labels, rate) == pytest.approx(1.0)
    assert calibration(labels, rate / 2) == pytest.approx(0.5)
    assert normalized_entropy(labels, np.where(labels == 1, 0.9, 0.1)) == pytest.approx(
        np.log(0.9) / (0.4 * np.log(0.4) + 0.6 * np.log(0.6))
    )


def test_entropy_and_calibration_without_clicks_are_errors():
    with pytest.raises(ValueError, match="both classes"):
        normalized_entropy(np.zeros(2), np.full(2, 0.5))
    with pytest.raises(ValueError, match="no label is 1"):
        calibration(np.zeros(2), np.full(2, 0.5))


@pytest.mark.parametrize("metric", [log_loss, normalized_entropy, calibration])
@pytest.mark.parametrize(
    ("labels", "values", "message"),
    [
        ([0, 1], [0.5], "equally long"),
        ([0, 2], [0.5, 0.5], "labels must be 0 or 1"),
        ([0, 1], [0.5, np.nan], "NaN"),
        ([0, 1], [0.5, 1.5], "apply sigmoid"),
        ([0, 1], [0, 1], "floating-point"),
        ([], [], "no rows"),
    ],
)
def test_bad_input_is_an_error(metric, labels, values, message):
    with pytest.raises(ValueError, match=message):
        metric(np.array(labels), np.array(values))


def test_auc_of_bad_input_is_an_error():
    with pytest.raises(ValueError, match="NaN"):
        auc(np.array([0, 1]), np.array([0.0, np.nan]))
    with pytest.raises(ValueError, match="labels must be 0 or 1"):
        auc(np.array([0, 1, -1]), np.zeros(3))
    with pytest.raises(ValueError, match="equally long"):
        auc(np.array([0, 1]), np.zeros((2, 1)))
