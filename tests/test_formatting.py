"""Sizes and tables as text."""

import pytest

from robe_numba.formatting import format_bytes, markdown_table


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (2_000_000, "2 MB"),
        (1_234_567, "1.235 MB"),
        (6.4e10, "64 GB"),
        (3.5e12, "3.5 TB"),
    ],
)
def test_bytes_are_shown_in_the_largest_decimal_unit_that_fits(num_bytes, text):
    assert format_bytes(num_bytes) == text


def test_enough_digits_tell_any_two_sizes_apart():
    assert format_bytes(123_456_789, digits=12) == "123.456789 MB"


def test_a_markdown_table_has_a_rule_below_its_header_and_escapes_bars():
    assert markdown_table(("a", "b"), [(1, "x|y"), ("", None)]) == (
        "| a | b |\n| --- | --- |\n| 1 | x\\|y |\n|  | None |"
    )
