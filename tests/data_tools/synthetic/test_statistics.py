"""Generated lines beside what 10,000 consecutive lines of the real logs look like."""

from collections import Counter
from typing import NamedTuple

import numpy as np
import pytest

from data_tools.synthetic import generator

LINES = 10_000
BLOCKS = 4


def numbers(text: str) -> np.ndarray:
    return np.array(text.split(), np.float64)


class Facts(NamedTuple):
    """Measured on the real logs, by column."""

    dense_empty: np.ndarray  # % of lines
    dense_log: np.ndarray  # mean of log(1 + x) of the numbers, negatives as 0
    dense_least: np.ndarray
    negative: dict[int, float]  # column: % of lines below 0
    cat_empty: np.ndarray  # % of lines
    distinct: np.ndarray  # different ids in 10,000 lines
    commonest: np.ndarray  # % of lines with the commonest id
    cardinality: np.ndarray
    together: list[str]  # columns that are empty in the same lines


KAGGLE = Facts(
    numbers("44.8 0 20.4 19.8 4.9 25.1 4.9 0.1 4.9 44.8 4.9 77.3 19.8"),
    numbers("0.80 2.12 2.25 1.73 7.24 3.58 1.54 2.06 3.61 0.38 0.85 0.30 1.88"),
    numbers("0 -2 0 0 0 0 0 0 0 0 0 0 0"),
    {1: 9.75},
    numbers("0 0 3.6 3.6 0 13.3 0 0 0 0 0 3.6 0 0 0 3.6 0 0 45.0 45.0 3.6 81.8 0 3.6 45.0 45.0"),
    numbers(
        "175 386 5520 4032 56 7 3184 93 3 2986 2084 5283 1725 24 2035 4723 9 1149 546 3 5036 7 12 "
        "2524 39 1938"
    ),
    numbers(
        "50.0 12.3 4.7 7.3 66.6 45.9 1.1 58.9 88.7 27.6 2.0 4.7 2.2 36.3 1.9 4.7 43.0 5.1 33.1 "
        "19.9 4.7 9.6 45.1 7.5 18.1 4.5"
    ),
    numbers(
        "1460 583 10131227 2202608 305 24 12517 633 3 93145 5683 8351593 3194 27 14992 5461306 10 "
        "5652 2173 4 7046547 18 15 286181 105 142572"
    ),
    ["I1 I10", "I4 I13", "I7 I9 I11", "C3 C4 C12 C16 C21 C24", "C19 C20 C25 C26"],
)
TERABYTE = Facts(
    numbers("23.9 10.2 25.4 49.3 46.5 9.2 3.1 0 0 9.2 46.5 1.6 25.4"),
    numbers("2.22 5.13 1.55 3.58 2.08 0.27 0.04 2.36 1.70 0.13 1.26 7.68 1.78"),
    numbers("1 1 0 0 1 0 0 -1 0 0 1 0 0"),
    {7: 5.99},
    numbers("2.6 0 0 0 0 0 0 0 0 2.6 2.6 0 0 46.7 0 46.7 46.7 0 0 2.6 2.6 2.6 46.7 0 0 0"),
    numbers(
        "2755 1796 2704 724 1452 3 1934 518 20 2550 1451 3019 9 355 1127 29 3 166 12 2799 2088 "
        "2692 1260 2136 29 24"
    ),
    numbers(
        "26.1 9.7 3.9 29.0 20.3 87.8 4.5 10.1 52.4 26.1 26.1 26.7 32.9 39.9 9.7 40.2 39.4 50.8 "
        "53.4 26.1 26.1 26.1 26.1 3.9 52.4 36.6"
    ),
    numbers(
        "227605432 39060 17295 7424 20265 3 7122 1543 63 130229467 3067956 405282 10 2209 11938 "
        "155 4 976 14 292775614 40790948 187188510 590152 12973 108 36"
    ),
    ["I3 I13", "I5 I11", "I6 I10", "C1 C10 C11 C20 C21 C22", "C14 C16 C17 C23"],
)
FACTS = {"kaggle": KAGGLE, "terabyte": TERABYTE}


class Lines(NamedTuple):
    facts: Facts
    dense: np.ndarray  # float64 (BLOCKS * LINES, 13), NaN is empty
    ids: np.ndarray  # str (BLOCKS * LINES, 26)


@pytest.fixture(scope="module", params=sorted(FACTS))
def lines(request: pytest.FixtureRequest) -> Lines:
    text = generator.Generator(request.param).text(0, BLOCKS * LINES).decode("ascii")
    rows = [line.split("\t") for line in text.splitlines()]
    dense = np.array([[float(field or "nan") for field in row[1:14]] for row in rows])
    return Lines(FACTS[request.param], dense, np.array([row[14:] for row in rows]))


def share_error(percent: np.ndarray) -> np.ndarray:
    """Four standard errors of a share of the lines, and the rounding of the table, in %."""
    return 4 * np.sqrt(percent * (100 - percent) / (BLOCKS * LINES)) + 0.051


def test_cardinalities_are_those_of_the_real_logs() -> None:
    for preset, facts in FACTS.items():
        assert generator.Generator(preset).cardinalities == tuple(facts.cardinality.astype(int))


def test_empty_shares(lines: Lines) -> None:
    for measured, empty in (
        (lines.facts.dense_empty, np.isnan(lines.dense)),
        (lines.facts.cat_empty, lines.ids == ""),
    ):
        percent = 100 * empty.mean(0)
        assert (np.abs(percent - measured) <= share_error(measured)).all()


def test_columns_are_empty_together(lines: Lines) -> None:
    empty = np.concatenate([np.isnan(lines.dense), lines.ids == ""], 1)
    names = [f"I{i}" for i in range(1, 14)] + [f"C{i}" for i in range(1, 27)]
    groups: dict[bytes, list[str]] = {}
    for name, column in zip(names, empty.T, strict=True):
        if column.any():
            groups.setdefault(column.tobytes(), []).append(name)
    assert sorted(" ".join(g) for g in groups.values() if len(g) > 1) == sorted(
        lines.facts.together
    )


def test_dense_mean_logs(lines: Lines) -> None:
    logs = np.log1p(np.maximum(lines.dense, 0))
    error = 4 * np.nanstd(logs, 0) / np.sqrt((~np.isnan(logs)).sum(0)) + 0.015
    assert (np.abs(np.nanmean(logs, 0) - lines.facts.dense_log) <= error).all()


def test_dense_least_and_negatives(lines: Lines) -> None:
    blocks = np.split(lines.dense, BLOCKS)
    least = np.stack([np.nanmin(block, 0) for block in blocks])
    assert (least >= lines.facts.dense_least).all()
    assert (least == lines.facts.dense_least).mean(0).min() >= 0.5
    for column, percent in enumerate(100 * (lines.dense < 0).mean(0)):
        expected = lines.facts.negative.get(column, 0.0)
        assert abs(percent - expected) <= share_error(np.float64(expected))


def test_dense_integers_have_a_large_range(lines: Lines) -> None:
    values = lines.dense[~np.isnan(lines.dense)]
    assert (values == np.round(values)).all()
    assert values.max() > 1e5
    assert values.max() < 2**31


def statistics(ids: np.ndarray) -> tuple[list[int], list[float]]:
    """Number of different ids and % of the commonest id, by column, empties left out."""
    counts = [Counter(column.tolist()) for column in ids.T]
    for count in counts:
        count.pop("", None)
    return [len(c) for c in counts], [100 * max(c.values()) / len(ids) for c in counts]


def test_distinct_and_commonest_ids_are_within_a_fifth(lines: Lines) -> None:
    """In the mean of the blocks: one block's commonest share of 1 % alone varies by a tenth."""
    blocks = [statistics(block) for block in np.split(lines.ids, BLOCKS)]
    distinct = np.mean([block[0] for block in blocks], 0)
    commonest = np.mean([block[1] for block in blocks], 0)
    assert (np.abs(distinct / lines.facts.distinct - 1) <= 0.2).all()
    assert (np.abs(commonest / lines.facts.commonest - 1) <= 0.2).all()


def test_a_finer_id_decides_the_coarser_ones(lines: Lines) -> None:
    """As in the real logs: the id of C3 (Kaggle) gives that of C24, that of C20 (TB) C11."""
    fine, coarse = (2, 23) if lines.facts is KAGGLE else (19, 10)
    order = np.argsort(lines.ids[:, fine], kind="stable")
    a, b = lines.ids[order, fine], lines.ids[order, coarse]
    repeated = (a[1:] == a[:-1]) & (a[1:] != "")
    assert (b[1:] == b[:-1])[repeated].mean() > 0.9
