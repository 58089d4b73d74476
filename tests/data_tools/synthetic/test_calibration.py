"""The planted model as logistic regression on 10,000 lines sees it; docs/generator.md has more."""

import numpy as np
import pytest
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits

from data_tools.synthetic import generator as synth

TRAIN, LINES, SEEDS = 8_000, 10_000, 6


def features(text: str) -> tuple[np.ndarray, sparse.csr_matrix, sparse.csr_matrix]:
    """Labels, standardized log(1 + x) with empties as 0, and one-hot ids, empties an id too."""
    rows = [line.split("\t") for line in text.splitlines()]
    dense = np.array([[float(field or "0") for field in row[1:14]] for row in rows])
    logs = np.log1p(np.maximum(dense, 0))
    vocabulary: dict[tuple[int, str], int] = {}
    ones = [
        vocabulary.setdefault((column, value), len(vocabulary))
        for row in rows
        for column, value in enumerate(row[14:])
    ]
    one_hot = sparse.csr_matrix(
        (np.ones(len(ones)), np.array(ones), np.arange(0, len(ones) + 1, 26)),
        shape=(len(rows), len(vocabulary)),
    )
    standardized = sparse.csr_matrix((logs - logs.mean(0)) / logs.std(0))
    labels = np.array([row[0] == "1" for row in rows])
    return labels, standardized, sparse.hstack([standardized, one_hot]).tocsr()


def held_out_auc(features: sparse.csr_matrix, labels: np.ndarray) -> float:
    # Threads only get in each other's way in vectors this short.
    with threadpool_limits(1):
        model = LogisticRegression(C=0.1, max_iter=500).fit(features[:TRAIN], labels[:TRAIN])
    return float(roc_auc_score(labels[TRAIN:], model.decision_function(features[TRAIN:])))


# Measured on the real samples in the same way: .707 and .751 (Kaggle), .702 and .740 (Terabyte).
@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "error"), [("kaggle", 0.02), ("terabyte", 0.04)], ids=["kaggle", "terabyte"]
)
def test_logistic_regression_reaches_what_it_reaches_on_the_real_logs(
    preset: str, error: float
) -> None:
    scores = []
    for seed in range(SEEDS):
        generator = synth.Generator(preset, seed=seed)
        labels, dense, everything = features(generator.text(0, LINES).decode("ascii"))
        scores.append([held_out_auc(dense, labels), held_out_auc(everything, labels)])
    dense_auc, auc = np.mean(scores, 0)
    print(f"{preset}: dense {dense_auc:.4f}, all {auc:.4f}")
    assert abs(dense_auc - 0.69) < error
    assert abs(auc - 0.73) < error
