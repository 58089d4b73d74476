"""Statistics of the estimator: inner products through the shared array, measured on theory."""

import numpy as np
import pytest

from robe_numba import RobeSpec, lookup, lookup_backward

N, M, DRAWS = 24, 16, 5_000


def projections(block_size, sign, vectors):
    """float64 (DRAWS, 2, M): x and y projected by DRAWS independent hashes.

    Projecting a vector is the backward pass of reading it, so this measures the package itself.
    """
    out = np.empty((DRAWS, 2, M))
    index = np.zeros((1, 1), dtype=np.int64)
    for draw in range(DRAWS):
        spec = RobeSpec(M, block_size, N, 1, seed=draw, sign=sign)
        for which, vector in enumerate(vectors):
            out[draw, which] = lookup_backward(vector.reshape(1, 1, N), index, spec)
    return out


def predicted_variance(x, y, block_size):
    """(1/m) sum over i != j of different blocks of x_i^2 y_j^2 + x_i y_i x_j y_j."""
    blocks = np.arange(N) // block_size
    different = blocks[:, None] != blocks
    terms = np.outer(x * x, y * y) + np.outer(x * y, x * y)
    return (terms * different).sum() / M


@pytest.fixture(scope="module")
def vectors():
    generator = np.random.default_rng(20)
    return generator.standard_normal((2, N))


@pytest.mark.parametrize("block_size", [1, 4, 8])
def test_signed_estimate_is_unbiased_with_the_variance_of_theory(vectors, block_size):
    x, y = vectors
    projected = projections(block_size, True, vectors)
    estimates = (projected[:, 0] * projected[:, 1]).sum(axis=1)
    variance = predicted_variance(x, y, block_size)
    # The mean of so many draws strays by more than five of its deviations once in a million.
    assert abs(estimates.mean() - x @ y) < 5 * np.sqrt(variance / DRAWS)
    # The sample variance of a distribution with kurtosis k strays by sqrt((k - 1) / draws).
    kurtosis = ((estimates - estimates.mean()) ** 4).mean() / estimates.var() ** 2
    assert abs(estimates.var() / variance - 1) < 5 * np.sqrt((kurtosis - 1) / DRAWS)


def test_unsigned_estimate_is_biased(vectors):
    """Without signs every pair of elements that meets adds up: sum over i != j of x_i y_j / m."""
    x, y = np.abs(vectors)
    projected = projections(1, False, (x, y))
    estimates = (projected[:, 0] * projected[:, 1]).sum(axis=1)
    bias = (np.outer(x, y).sum() - x @ y) / M
    deviation = estimates.std() / np.sqrt(DRAWS)
    assert bias > 40 * deviation
    assert abs(estimates.mean() - x @ y - bias) < 5 * deviation


def test_signs_are_balanced_and_independent_of_each_other():
    """Products of the signs of any two elements, and of two rows, are zero on average."""
    rows, dim = 4000, 128
    spec = RobeSpec(10_000_019, dim, dim, 1, sign=True)
    ones = np.ones(spec.array_size, dtype=np.float32)
    signs = lookup(ones, np.arange(rows).reshape(-1, 1), spec)[:, 0]
    assert set(np.unique(signs)) == {-1.0, 1.0}
    # Sums of n fair signs have deviation sqrt(n); 6 deviations cover 8,000 pairs of elements.
    between_elements = signs.T @ signs - rows * np.eye(dim)
    assert np.abs(between_elements).max() < 6 * np.sqrt(rows)
    between_rows = (signs[:-1] * signs[1:]).sum(axis=1)
    assert np.abs(between_rows).max() < 6 * np.sqrt(dim)
    assert abs(signs.sum()) < 5 * np.sqrt(rows * dim)
