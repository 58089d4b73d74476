"""Plans: what is compared, what is recommended, and mistakes."""

import math

import numpy as np
import pytest

from robe_numba import RobeSpec
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
    ],
)
def test_mistakes_of_a_plan_name_the_value(arguments, options, words):
    with pytest.raises(ValueError, match=words):
        plan(*arguments, **options)
