"""Names of the files and subfolders of a dataset.

`check_name` checks names that were read from a file: files of these names are opened, written and
deleted, so they must not be paths to elsewhere.
"""

import re

FOLDER = re.compile(r"shards-[0-9]{1,9}")
SHARD = re.compile(r"part-[0-9]{3,9}-[0-9]{5,9}\.(arrow|parquet)")
REJECTS_NAME = "rejects.jsonl"  # beside the shards
VOCABULARY = re.compile(r"vocabulary-[0-9]{3,9}\.arrow")


def shards_folder(number: int) -> str:
    """Subfolder of the shards; a dataset that replaces another gets the next free number."""
    return f"shards-{number}"


def shard_name(source: int, number: int, file_format: str) -> str:
    """File name of a shard, given its source and its number in there, both from 0."""
    return f"part-{source:03d}-{number:05d}.{file_format}"


def vocabulary_name(column: int) -> str:
    """File name of the known ids of a categorical column, counted from 0."""
    return f"vocabulary-{column:03d}.arrow"


def check_name(name: str, pattern: re.Pattern[str]) -> None:
    """Require one of the names that this module makes.

    Parameters
    ----------
    pattern : FOLDER, SHARD or VOCABULARY

    Raises
    ------
    ValueError
        It is another name.
    """
    if not pattern.fullmatch(name):
        raise ValueError(
            f"it names {name!r}, which is not the name of a file or folder of a dataset"
        )
