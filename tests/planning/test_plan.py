"""Plans: what is compared, what is recommended, and mistakes."""

import math
from dataclasses import asdict

import numpy as np
import pytest

from robe_numba import RobeSpec
from robe_numba.planning.costs import sample_costs
from robe_numba.planning.plan import IDENTICAL_SHARE, plan


def test_a_plan_compares_every_block_size():
    made = plan(np.array([1000, 24]), 24, array_size=2001)
    pairs = [(choice.block_size, choice.alignment) for choice in made.choices]
    assert pairs == [(1, 1), (2, 1), (2, 2), (4, 1), (4, 4), (8, 1), (8, 8), (16, 1), (16, 16),
                     (24, 1)]  # fmt: skip
    assert made.compression == 1024 * 24 / 2001
    assert made.tables.weights == made.tables.adagrad_state == 4 * 1024 * 24
    assert made.tables.adagrad_block_state == 4 * 1024 * 24 / 16  # a sum for 16 elements
    for choice in made.choices:
        spec = RobeSpec(2001, choice.block_size, 24, 2, alignment=choice.alignment)
        assert choice.num_blocks == spec.num_blocks
        assert choice.num_starts == len(range(0, 2001, choice.alignment))
        assert choice.memory.weights == spec.num_bytes
        assert choice.memory.sgd_state == 0
        assert choice.memory.adagrad_block_state == 4 * math.ceil(2001 / min(choice.block_size, 16))
        assert choice.identical_share == choice.identical_rows / 1024
    assert plan([10, 10], 1, array_size=1).choices[0].identical_rows == 20
    assert [c.block_size for c in plan([10, 10], 64, array_size=40).choices][-1] == 32


def test_a_sample_costs_what_its_ids_and_tables_do():
    """By hand, for 13.5 ids of 3 tables: lines of 16 and of 32 floats, blocks of 8."""
    made = plan([100, 50, 10], 16, array_size=640, ids_per_row=(1, 2.5, 10))
    assert made.ids_per_row == (1, 2.5, 10)
    (unaligned, aligned) = (c.sample for c in made.choices if c.block_size == 8)
    assert asdict(unaligned) == {
        "reads": 13.5,
        "blocks": 13.5 * 2,
        "read_bytes": 13.5 * 64,
        "pooled_bytes": 3 * 64,
        "cpu_lines": 13.5 * 2 * (1 + 7 / 16),
        "gpu_lines": 13.5 * 2 * (1 + 7 / 32),
        "adagrad_cpu_lines": 2 * 13.5 * 2 * (1 + 7 / 16),
        "adagrad_gpu_lines": 2 * 13.5 * 2 * (1 + 7 / 32),
        # Eight elements share a sum, so a line has the sums of 128 elements, or of 256.
        "adagrad_block_cpu_lines": 13.5 * 2 * (1 + 7 / 16 + 1 + 7 / 128),
        "adagrad_block_gpu_lines": 13.5 * 2 * (1 + 7 / 32 + 1 + 7 / 256),
    }
    assert (aligned.cpu_lines, aligned.adagrad_block_cpu_lines) == (27, 54)
    tables = made.tables_sample
    assert (tables.reads, tables.blocks, tables.read_bytes) == (13.5, 13.5, 13.5 * 64)
    assert (tables.cpu_lines, tables.adagrad_cpu_lines) == (13.5, 27)
    assert tables.adagrad_block_cpu_lines == 27  # a sum per row, in a line of its own


def test_without_lists_a_sample_has_an_id_of_each_table():
    for made in (
        plan([9, 9], 8, array_size=50),
        plan([9, 9], 8, array_size=50, ids_per_row=[1, 1]),
    ):
        assert made.ids_per_row == (1, 1)
        assert made.tables_sample.reads == 2
        assert made.tables_sample.read_bytes == made.tables_sample.pooled_bytes == 64
    lists = plan([9, 9], 8, array_size=50, ids_per_row=[0, 7])
    alike = ("num_rows", "array_size", "tables", "tables_cpu_lines", "compression")
    assert [getattr(lists, name) for name in alike] == [getattr(made, name) for name in alike]
    assert lists.recommendation.reason == made.recommendation.reason


@pytest.mark.parametrize(("block_size", "alignment"), [(3, 1), (8, 1), (16, 4), (40, 1), (64, 64)])
def test_lines_of_sums_per_block_are_those_of_all_offsets(block_size, alignment):
    """Counted for every start in a line of sums."""
    state_block = 1 << (block_size.bit_length() - 1)
    period = math.lcm(16 * state_block, alignment)
    starts = range(0, period, alignment)
    lengths = [min(block_size, 64 - first) for first in range(0, 64, block_size)]
    touched = sum(
        len({(start + j) // state_block // 16 for j in range(length)})
        for start in starts
        for length in lengths
    )
    made = plan([100], 64, array_size=6000, ids_per_row=[4])
    costs = sample_costs(4, 1, 64, block_size, alignment)
    sums = costs.adagrad_block_cpu_lines - costs.cpu_lines
    assert sums == pytest.approx(4 * touched / len(starts), rel=1e-12)
    same = [
        c.sample for c in made.choices if (c.block_size, c.alignment) == (block_size, alignment)
    ]
    assert same in ([], [costs])


def test_the_recommendation_is_a_row_per_hash_with_signs_where_rows_meet():
    cases = (((10**6, 30), 32, 100), ((500,), 16, 2), ((9,) * 3, 8, 1), ((200,), 8, 8))
    for sizes, dim, compression in cases:
        advice = plan(sizes, dim, compression=compression).recommendation
        assert (advice.choice.block_size, advice.choice.alignment) == (dim, 1)
        assert advice.sign == (advice.choice.identical_share > IDENTICAL_SHARE)
        assert ("signs" in advice.reason) == advice.sign


def test_rows_that_stay_apart_need_no_signs():
    assert not plan([2], 5000, compression=1).recommendation.sign


def test_an_array_shorter_than_a_row_has_blocks_that_fit():
    assert plan([1000, 20], 16, array_size=10).recommendation.choice.block_size == 8


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        (([10], 4), {}, "neither is given"),
        (([10], 4), {"array_size": 4, "compression": 2}, "both are given"),
        (([10], 4), {"compression": 0.5}, "compression is 0.5"),
        (([10], 4), {"compression": 1000}, "use at most 40"),
        (([10], 4), {"array_size": 41}, "only 40 elements"),
        (([10], 4), {"array_size": 0}, "array_size is 0"),
        (([10], 0), {"array_size": 4}, "embedding_dim is 0"),
        (([10, 0], 4), {"array_size": 4}, r"num_embeddings\[1\] is 0"),
        (([], 4), {"array_size": 4}, "num_embeddings is empty"),
        (([9, 9], 4), {"array_size": 4, "ids_per_row": [1]}, "ids_per_row has 1 values but there"),
        (([9, 9], 4), {"array_size": 4, "ids_per_row": [1, -1]}, r"ids_per_row\[1\] is -1"),
        (([9], 4), {"array_size": 4, "ids_per_row": [math.inf]}, r"ids_per_row\[0\] is inf"),
    ],
)
def test_mistakes_of_a_plan_name_the_value(arguments, options, words):
    with pytest.raises(ValueError, match=words):
        plan(*arguments, **options)
