"""Which rows of a dataset are the last day, for a split by "day"."""

import re
from collections.abc import Sequence

from data_tools import Dataset
from data_tools.loader.partitions import DAYS
from data_tools.sources.file_types import without_ending


def last_day(names: Sequence[str]) -> str:
    """The last day of a log, given the names of its files."""
    return names[-1] if len(names) > 1 else f"the last of {DAYS} parts of {names[0]}"


def day_notes(dataset: Dataset) -> list[str]:
    """Lines to show before training: which day is the last, and a warning if that looks wrong."""
    names = [source.name for source in dataset.manifest.sources]
    rows = dataset.num_rows - dataset.split("train", by="day").num_rows
    notes = [
        f"split by day: the last day is {last_day(names)} ({rows:,} rows); its first half tests, "
        f"its second half validates, and all earlier days train"
    ]
    latest = latest_by_number(names)
    if latest is not None:
        notes.append(
            f"warning: the files are numbered, but were not ingested in the order of their numbers "
            f"({', '.join(names[:4])}{', ...' * (len(names) > 4)}), so {names[-1]} counts as the "
            f"last day and not {latest}; ingest them in order of time"
        )
    return notes


def latest_by_number(names: Sequence[str]) -> str | None:
    """The name with the highest numbers, if that is not the last.

    None if the names are in the order of their numbers, or differ in more than numbers.
    """
    words = [re.split(r"(\d+)", without_ending(name)) for name in names]
    if len({tuple(word[::2]) for word in words}) > 1:
        return None
    numbers = [tuple(map(int, word[1::2])) for word in words]
    if numbers == sorted(numbers):
        return None
    return names[numbers.index(max(numbers))]
