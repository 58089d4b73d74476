"""Costs of reading: against enumeration, exact arithmetic and the package's own reads."""

import math
from decimal import Decimal, localcontext
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robe_numba import RobeSpec, block_starts, lookup, lookup_backward
from robe_numba.planning.costs import expected_identical_rows, lines_touched, row_noise
from robe_numba.planning.plan import plan


@pytest.mark.parametrize(
    ("block_size", "cpu", "gpu"),
    [
        (1, (128, 128), (128, 128)),
        (8, (23, 32), (19.5, 32)),
        (32, (11.75, 12), (7.875, 8)),  # published rounded, as 7.9
        (128, (8.9375, 9), (4.96875, 5)),  # published rounded, as 8.94 and 4.97
    ],
)
def test_published_lines_per_row_of_128(block_size, cpu, gpu):
    for (average, most), line in ((cpu, 64), (gpu, 128)):
        lines = lines_touched(128, block_size, 1, line)
        assert (lines.average, lines.most) == (average, most)
    table = plan([1000], 128, compression=10)
    assert table.tables_cpu_lines.average == table.tables_cpu_lines.most == 8
    assert table.tables_gpu_lines.average == table.tables_gpu_lines.most == 4


def enumerated_lines(dim, block_size, alignment, line):
    """Average and most lines per row, by going through the starts of a period and every float."""
    period = math.lcm(alignment, line)
    average, most = Fraction(0), 0
    for first in range(0, dim, block_size):
        length = min(block_size, dim - first)
        touched = [
            len({(start + j) // line for j in range(length)})
            for start in range(0, period, alignment)
        ]
        average += Fraction(sum(touched), len(touched))
        most += max(touched)
    return average, most


@given(data=st.data(), dim=st.integers(1, 80), line_bytes=st.sampled_from([64, 128]))
@settings(max_examples=60, deadline=None)
def test_lines_are_those_of_all_offsets(data, dim, line_bytes):
    block_size = data.draw(st.integers(1, dim + 8))
    alignment = data.draw(st.integers(1, min(block_size, dim)))
    average, most = enumerated_lines(dim, block_size, alignment, line_bytes // 4)
    lines = lines_touched(dim, block_size, alignment, line_bytes)
    assert lines.most == most
    assert lines.average == pytest.approx(float(average), rel=1e-14)


@pytest.mark.parametrize(("block_size", "alignment"), [(1, 1), (6, 1), (8, 8), (20, 1), (16, 4)])
def test_lines_are_those_of_real_reads(block_size, alignment):
    """The average over many rows of a circular array, whose blocks also wrap."""
    dim, num_rows, line = 20, 20_000, 16
    spec = RobeSpec(640, block_size, dim, 1, alignment=alignment)
    starts = block_starts(np.arange(num_rows).reshape(-1, 1), spec)[:, 0]
    touched = np.zeros(num_rows)
    for k in range(spec.num_blocks):
        reach = np.arange(min(block_size, dim - k * block_size))
        lines = (starts[:, k, None] + reach) % spec.array_size // line
        touched += 1 + (np.diff(lines, axis=1) != 0).sum(axis=1)
    expected = lines_touched(dim, block_size, alignment, 64)
    assert touched.max() <= expected.most
    # Five standard errors, and nothing where every row touches as many.
    error = 5 * touched.std() / math.sqrt(num_rows) + 1e-9
    assert abs(touched.mean() - expected.average) < error


@pytest.mark.parametrize(("num_rows", "n", "blocks"), [(1, 3, 1), (4, 3, 1), (4, 2, 2), (6, 1, 3)])
def test_identical_rows_are_those_of_all_placements(num_rows, n, blocks):
    """Every way in which the rows can be placed, each as likely as the others."""
    rows = list(product(range(n), repeat=blocks))
    placements = list(product(rows, repeat=num_rows))
    twins = sum(sum(p.count(row) > 1 for row in p) for p in placements)
    expected = Fraction(twins, len(placements))
    assert expected_identical_rows(num_rows, n, blocks) == pytest.approx(float(expected), rel=1e-13)


@pytest.mark.parametrize(
    ("num_rows", "n", "blocks"),
    [(882_774_559, 112_995_144, 1), (882_774_559, 112_995_144, 2), (33_762_577, 67_525, 2),
     (33_762_577, 500_000, 4), (10**6, 10**7, 1), (2, 10**9, 30)],
)  # fmt: skip
def test_identical_rows_lose_no_digits(num_rows, n, blocks):
    with localcontext() as context:
        context.prec = 400
        others = (1 - Decimal(n) ** -blocks) ** (num_rows - 1)
        expected = float(num_rows * (1 - others))
    assert expected > 0
    assert expected_identical_rows(num_rows, n, blocks) == pytest.approx(expected, rel=1e-12)


def test_identical_rows_are_those_of_the_hash():
    """Rows with a twin among 2 tables of 10 rows, over many seeds."""
    num_rows, draws = 20, 1500
    indices = np.repeat(np.arange(num_rows // 2)[:, None], 2, axis=1)
    twins = np.empty(draws)
    for seed in range(draws):
        spec = RobeSpec(40, 3, 6, 2, seed=seed)
        starts = block_starts(indices, spec).reshape(num_rows, -1)
        _, counts = np.unique(starts, axis=0, return_counts=True)
        twins[seed] = counts[counts > 1].sum()
    expected = expected_identical_rows(num_rows, 40, 2)
    assert abs(twins.mean() - expected) < 5 * twins.std() / math.sqrt(draws)


def read_back_error(spec, rows_per_table, generator):
    """Mean over all rows of |read - stored|^2, for random rows of length 1."""
    shape = (rows_per_table, spec.num_tables, spec.embedding_dim)
    rows = generator.standard_normal(shape)
    rows /= np.linalg.norm(rows, axis=-1, keepdims=True)
    indices = np.repeat(np.arange(rows_per_table)[:, None], spec.num_tables, axis=1)
    array = lookup_backward(rows, indices, spec)
    return ((lookup(array, indices, spec) - rows) ** 2).sum(axis=-1).mean()


@pytest.mark.parametrize(
    ("dim", "block_size", "alignment", "rows_per_table", "sign"),
    [
        (6, 1, 1, 4, True),
        (6, 2, 2, 4, True),
        (6, 4, 1, 4, True),
        (6, 4, 4, 4, False),  # a last block that is shorter
        (10, 4, 2, 2, True),
        (7, 6, 4, 2, True),  # neither divides the other
        (6, 6, 1, 4, False),
        (12, 3, 1, 1, True),
    ],
)
def test_noise_is_what_reading_back_shows(dim, block_size, alignment, rows_per_table, sign):
    draws, m = 800, 24
    generator = np.random.default_rng(7)
    errors = np.empty(draws)
    for seed in range(draws):
        spec = RobeSpec(m, block_size, dim, 2, seed=seed, sign=sign, alignment=alignment)
        errors[seed] = read_back_error(spec, rows_per_table, generator)
    expected = row_noise(2 * rows_per_table, dim, m, block_size, alignment) ** 2
    assert abs(errors.mean() - expected) < 5 * errors.std() / math.sqrt(draws)


def test_own_noise_is_that_of_a_row_alone():
    """For one given row, with signs; none where the row is one block."""
    dim, m, draws = 12, 24, 800
    row = np.random.default_rng(1).standard_normal((1, 1, dim))
    row /= np.linalg.norm(row)
    index = np.zeros((1, 1), dtype=np.int64)
    for block_size in (1, 4, 12):
        products = np.empty(draws)  # of the row read back with itself: as signed estimates
        errors = np.empty(draws)
        for seed in range(draws):
            spec = RobeSpec(m, block_size, dim, 1, seed=seed, sign=True)
            back = lookup(lookup_backward(row, index, spec), index, spec)
            products[seed] = (back * row).sum()
            errors[seed] = ((back - row) ** 2).sum()
        assert abs(products.mean() - 1) < 5 * products.std() / math.sqrt(draws) + 1e-12
        blocks = (row.reshape(-1, block_size) ** 2).sum(axis=1)
        # Of this row: each element meets those of the other blocks, sum over i of |others|^2 / m.
        given = sum(block_size * (1 - own) for own in blocks) / m
        assert abs(errors.mean() - given) < 5 * errors.std() / math.sqrt(draws) + 1e-12
        assert row_noise(1, dim, m, block_size) ** 2 == pytest.approx(given)  # whatever the row


def test_noise_falls_as_blocks_grow_to_about_the_root_of_the_compression():
    made = plan([300, 20], 32, compression=10)
    noise = [choice.noise for choice in made.choices if choice.alignment == 1]
    assert noise == sorted(noise, reverse=True)
    assert noise[0] > noise[-1] > 0.99 * math.sqrt(10)
    own = [choice.own_noise for choice in made.choices if choice.alignment == 1]
    assert own == sorted(own, reverse=True)
    assert own[-1] == 0
