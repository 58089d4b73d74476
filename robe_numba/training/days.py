"""What a split by "day" does with a dataset, in words."""

import re
from collections.abc import Sequence

from data_tools import Dataset
from data_tools.loader.partitions import DAYS
from data_tools.sources.containers import without_ending


def last_day(names: Sequence[str]) -> str:
    """The last day of a log in files of these names."""
    return names[-1] if len(names) > 1 else f"the last of {DAYS} parts of {names[0]}"


def day_notes(dataset: Dataset) -> list[str]:
    """Lines to be shown before training: which day is the last, and whether that looks wrong."""
    names = [source.name for source in dataset.manifest.sources]
    rows = dataset.num_rows - dataset.split("train", by="day").num_rows
    notes = [
        f"split by day: the last day is {last_day(names)} ({rows:,} rows); its first half tests, "
        f"the rest validates, and all before it trains"
    ]
    latest = latest_by_number(names)
    if latest is not None:
        notes.append(
            f"warning: the files are numbered, but were not ingested in the order of their numbers "
            f"({', '.join(names[:4])}{', ...' * (len(names) > 4)}), so {names[-1]} counts as the "
            f"last day and not {latest}; ingest them in the order of time"
        )
    return notes


def latest_by_number(names: Sequence[str]) -> str | None:
    """The last name in the order of the numbers in them.

    None where they are in this order, or differ in more than numbers.
    """
    words = [re.split(r"(\d+)", without_ending(name)) for name in names]
    if len({tuple(word[::2]) for word in words}) > 1:
        return None
    numbers = [tuple(map(int, word[1::2])) for word in words]
    if numbers == sorted(numbers):
        return None
    return names[numbers.index(max(numbers))]
