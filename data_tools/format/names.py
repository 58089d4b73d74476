"""Names of the files and subfolders of a dataset.

Those that are read from a file are checked with `check_name`: they are opened, written and deleted,
so they must lead nowhere else.
"""

import re

FOLDER = re.compile(r"shards-[0-9]{1,9}")
SHARD = re.compile(r"part-[0-9]{3,9}-[0-9]{5,9}\.(arrow|parquet)")
REJECTS_NAME = "rejects.jsonl"  # beside the shards
VOCABULARY = re.compile(r"vocabulary-[0-9]{3,9}\.arrow")


def shards_folder(number: int) -> str:
    """Subfolder of the shards: a dataset that replaces another one has the next free number."""
    return f"shards-{number}"


def shard_name(source: int, number: int, file_format: str) -> str:
    """File name of a shard: of which source, and which of its shards, both counted from 0."""
    return f"part-{source:03d}-{number:05d}.{file_format}"


def vocabulary_name(column: int) -> str:
    """File name of the known ids of a categorical column, counted from 0."""
    return f"vocabulary-{column:03d}.arrow"


def check_name(name: str, pattern: re.Pattern[str]) -> None:
    """Require a name that this module gives.

    Parameters
    ----------
    pattern : FOLDER, SHARD or VOCABULARY

    Raises
    ------
    ValueError
        It is another one.
    """
    if not pattern.fullmatch(name):
        raise ValueError(f"it names {name!r}, which is no name of a file or folder of ours")
