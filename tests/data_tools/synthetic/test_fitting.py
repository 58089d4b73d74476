"""The fits behind the presets, on columns whose law is known."""

import numpy as np
import pytest

from data_tools.synthetic import generator as synth
from data_tools.synthetic.fitting import RankLaw, fit_column, fit_dense, fit_effect

LAW = RankLaw(head=0.1, exponent=1.3, shift=5.0, common=2000)


def exact_shares(law: RankLaw) -> np.ndarray:
    """Probability of every rank, by the integral of the density over [rank - 1, rank)."""
    edges = np.arange(law.common)
    mass = -np.diff((edges + law.shift) ** (1 - law.exponent))
    return np.concatenate([[law.head], (1 - law.head) * mass / mass.sum()])


def test_rank_law_sums_its_shares() -> None:
    shares = exact_shares(LAW)
    np.testing.assert_allclose(
        (1 - LAW.head) * np.diff(LAW.cdf(np.arange(1, LAW.common + 1))), shares[1:], rtol=1e-9
    )
    for draws in (10, 1000, 100_000):
        exact = (1 - (1 - shares) ** draws).sum()
        assert LAW.expected_distinct(draws) == pytest.approx(exact, rel=1e-6)


def test_expected_distinct_of_a_long_tail_is_near_the_sum() -> None:
    law = RankLaw(head=0.05, exponent=1.05, shift=3.0, common=200_000)
    exact = (1 - (1 - exact_shares(law)) ** 50_000).sum()
    assert law.expected_distinct(50_000) == pytest.approx(exact, rel=1e-3)


def test_fit_column_finds_the_law_of_a_long_tail() -> None:
    rng = np.random.default_rng(5)
    ranks = rng.choice(LAW.common, 10_000, p=exact_shares(LAW))
    ids = [
        "" if empty else f"{rank:08x}"
        for rank, empty in zip(ranks, rng.random(10_000) < 0.2, strict=True)
    ]
    present = [value for value in ids if value]
    law = fit_column(ids, LAW.common)
    assert law.head == present.count("00000000") / len(present)
    assert law.expected_distinct(len(present)) == pytest.approx(len(set(present)), rel=0.001)
    # The parameters trade off against each other; the law itself is found.
    for draws in (300, 3000, 100_000):
        assert law.expected_distinct(draws) == pytest.approx(LAW.expected_distinct(draws), rel=0.06)


def test_fit_column_of_a_few_ids_keeps_their_number_and_the_second_share() -> None:
    ids = ["a"] * 500 + ["b"] * 300 + ["c"] * 150 + ["d"] * 50
    law = fit_column(np.random.default_rng(0).permutation(ids).tolist(), 10)
    assert law.common == 4
    assert law.head == 0.5
    assert 0.5 * law.cdf(2) == pytest.approx(0.3, abs=1e-6)


@pytest.mark.parametrize("ids", [[], ["a", "a", ""], ["a", "b", "c"]])
def test_fit_column_refuses_what_it_cannot_fit(ids: list[str]) -> None:
    with pytest.raises(ValueError, match="cardinality = 2 different ids"):
        fit_column(ids, 2)


@pytest.mark.parametrize(("least", "mu", "sigma"), [(0, 1.5, 1.2), (1, 2.0, 1.5), (0, -1.0, 1.6)])
def test_fit_dense_finds_the_law(least: int, mu: float, sigma: float) -> None:
    rng = np.random.default_rng(1)
    values = np.maximum(least, np.floor(np.exp(rng.normal(mu, sigma, 50_000))))
    values[rng.random(50_000) < 0.3] = np.nan
    law = fit_dense(values)
    assert law.least == least
    assert law.empty == pytest.approx(0.3, abs=0.01)
    assert law.mu == pytest.approx(mu, abs=0.08)
    assert law.sigma == pytest.approx(sigma, abs=0.08)
    assert law.minus_one == law.below == 0


def test_fit_dense_counts_negatives_apart() -> None:
    values = np.array([-2.0, -1, -1, 0, 1, 2, 5, 9, 3, np.nan])
    law = fit_dense(values)
    assert (law.below, law.minus_one, law.empty) == (1 / 9, 2 / 9, 0.1)
    assert law.mean_log == pytest.approx(np.log([1, 1, 1, 1, 2, 3, 6, 10, 4]).mean())
    with pytest.raises(ValueError, match="needs at least one value >= 0"):
        fit_dense(np.array([-1.0, np.nan]))


def test_fit_effect_finds_the_deviation_between_ids() -> None:
    rng = np.random.default_rng(2)
    ids = rng.integers(0, 300, 60_000)
    logits = rng.normal(-1.0, 0.5, 300)
    clicks = rng.random(60_000) < 1 / (1 + np.exp(-logits[ids]))
    # The logit is linear to first order only, which is some 5 % here.
    assert fit_effect(ids.astype(str).tolist(), clicks) == pytest.approx(0.5, rel=0.15)
    chance = rng.random(60_000) < 0.25
    assert fit_effect(ids.astype(str).tolist(), chance) < 0.1
    assert fit_effect(["a"] * 100, rng.random(100) < 0.5) == 0.0
    assert fit_effect(["a", "b"] * 50, np.zeros(100)) == 0.0


@pytest.mark.parametrize("column", [0, 3, 6, 19])
def test_the_presets_come_back_from_the_lines_they_make(column: int) -> None:
    generator = synth.Generator("kaggle", seed=3)
    ids = [
        line.split("\t")[14 + column] for line in generator.text(0, 10_000).decode().splitlines()
    ]
    law = fit_column(ids, generator.cardinalities[column])
    preset = generator.preset.categorical[column]
    made = RankLaw(preset.head, preset.exponent, preset.shift, preset.common or preset.cardinality)
    for draws in (1000, 10_000, 100_000):
        assert law.expected_distinct(draws) == pytest.approx(
            made.expected_distinct(draws), rel=0.15
        )
