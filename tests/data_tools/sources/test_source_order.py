"""Files as a shell lists them are taken by number; any other order is the user's."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_tools.sources.source_order import in_numeric_order
from robe_numba.training.days import latest_by_number


@given(days=st.lists(st.integers(0, 10**6), unique=True, min_size=1))
def test_days_of_a_shell_are_put_in_order(days):
    names = [f"logs/day_{day}.gz" for day in days]
    expected = [f"logs/day_{day}.gz" for day in sorted(days)]
    assert in_numeric_order(sorted(names)) == expected
    # Where punctuation does not count, day_10.gz comes before day_1.gz.
    without = sorted(names, key=lambda name: name.replace("_", "").replace(".", ""))
    assert in_numeric_order(without) == expected


@pytest.mark.parametrize(
    "names",
    [
        ["day_1", "day_2", "day_10"],
        ["day_10", "day_2", "day_1"],
        ["day_2", "day_10", "day_1"],
        ["a_10", "b_2"],
        ["day_10", "day_2", "test"],
        ["train.txt", "valid.txt"],
        ["day_1"],
        [],
    ],
)
def test_other_orders_stay(names):
    assert in_numeric_order(names) == names


def test_all_numbers_count():
    names = [f"{year}/{day}.gz" for year in (2024, 2023) for day in range(12)]
    random.Random(0).shuffle(names)
    expected = [f"{year}/{day}.gz" for year in (2023, 2024) for day in range(12)]
    assert in_numeric_order(sorted(names)) == expected


def test_files_of_which_some_are_unpacked_are_put_in_order():
    names = ["day_0", "day_1.gz", "day_10", "day_2.bz2", "day_3.lz4"]
    expected = ["day_0", "day_1.gz", "day_2.bz2", "day_3.lz4", "day_10"]
    assert in_numeric_order(names) == expected
    assert latest_by_number(names) == "day_10"
    assert latest_by_number(expected) is None
