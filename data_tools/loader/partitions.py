"""The parts of a dataset: which rows train, validate and test."""

import math
import operator
from collections.abc import Sequence

SPLIT_NAMES = ("train", "validation", "test")
FRACTIONS = (0.8, 0.1, 0.1)
DAYS = 7  # of a log in a single file, as in Criteo's Kaggle log


def check_partition(name: str, fractions: Sequence[float], by: str, seed: int) -> None:
    """Refuse arguments that `Dataset.split` does not take; see there."""
    if name not in (*SPLIT_NAMES, "all"):
        raise ValueError(f"there is no split {name!r}; choose {', '.join(SPLIT_NAMES)} or all")
    if by not in ("order", "day", "random"):
        raise ValueError(f'by is {by!r}; choose "order", "day" or "random"')
    if operator.index(seed) < 0:
        raise ValueError(f"seed is {seed}; it must not be negative")
    if (
        len(fractions) != len(SPLIT_NAMES)
        or not all(share >= 0 for share in fractions)
        or not math.isclose(sum(fractions), 1)
    ):
        raise ValueError(
            f"fractions are {fractions}; give three shares (train, validation, test) "
            "that are not negative and whose sum is 1"
        )


def part_ends(num_rows: int, fractions: Sequence[float]) -> list[int]:
    """Where train, validation and test end, in rows."""
    return [round(sum(fractions[:n]) * num_rows) for n in (1, 2, 3)]


def day_rows(rows_per_source: Sequence[int], name: str) -> range:
    """Rows of one part of a log that is split by days: the last day validates and tests.

    Each source is a day. A single source is cut into 7 as `numpy.array_split` cuts, as DLRM does
    with Criteo's Kaggle log. The first half of the last day, with the middle row of an odd number,
    is the test.

    Parameters
    ----------
    rows_per_source : sequence of int
        In the order of time.
    name : {"train", "validation", "test"}

    Returns
    -------
    range

    Raises
    ------
    ValueError
        There is no part of that name.

    Notes
    -----
    Source: Naumov et al., DLRM, `data_utils.py` and `dlrm_data_pytorch.py` of its release.
    """
    total = sum(rows_per_source)
    # The last of numpy.array_split's parts has no row more than the others.
    last_day = rows_per_source[-1] if len(rows_per_source) > 1 else total // DAYS
    trained = total - last_day
    tested = trained + (last_day + 1) // 2
    parts = {
        "train": range(trained),
        "test": range(trained, tested),
        "validation": range(tested, total),
    }
    if name not in parts:
        raise ValueError(f"there is no part {name!r} of a split by days; choose {', '.join(parts)}")
    return parts[name]
