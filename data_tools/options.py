"""The options of an ingest, which decide the bytes of a dataset, and their allowed values."""

import re
from dataclasses import asdict, dataclass
from typing import Any

DENSE_TRANSFORMS = ("log1p", "none", "log3", "log-squared")  # explained by `transform_dense`
FILE_FORMATS = ("arrow", "parquet")
CHOICES = {
    "format": ("auto", "criteo", "csv", "parquet"),
    "dense_transform": DENSE_TRANSFORMS,
    "on_error": ("stop", "skip"),
    "ids": ("raw", "appearance"),
    "file_format": FILE_FORMATS,
    "compression": ("none", "lz4", "zstd"),
}
LATER = ("separator", "list_separator", "max_length")  # older manifests lack them
_SEPARATOR = re.compile(r'(?![\w"\r\n\0+\-.])[\0-\x7f]')


@dataclass(frozen=True)
class Options:
    """How sources are read and shards are written. `data_tools.ingest` explains each option.

    Raises
    ------
    ValueError
        A value is not allowed; the message lists those that are.
    """

    format: str = "auto"
    dense_transform: str = "log1p"
    on_error: str = "stop"
    max_ind_range: int | None = None
    ids: str = "raw"
    min_count: int = 1
    file_format: str = "arrow"
    compression: str = "none"
    separator: str | None = None
    list_separator: str | None = None
    max_length: int | None = None

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}; choose one of {', '.join(allowed)}"
                )
        for name in ("separator", "list_separator"):
            character = getattr(self, name)
            if character is not None and not _SEPARATOR.fullmatch(character):
                raise ValueError(
                    f"{name} is {character!r}; it must be one ASCII character, but no letter, "
                    'digit, quote, line end, or one of "+-._"'
                )
        if self.separator is not None and self.separator == self.list_separator:
            raise ValueError(
                f"separator and list_separator are both {self.separator!r}; a field that holds a "
                "list needs a separator of its own"
            )
        if self.max_length is not None:
            check_count("max_length", self.max_length, 2**31 - 1)
        if self.max_ind_range is not None:
            check_count("max_ind_range", self.max_ind_range, 2**32 - 1)
        check_count("min_count", self.min_count, 2**32 - 1)

    @property
    def counts_ids(self) -> bool:
        """Whether ids are counted before rows are written, which takes a second pass."""
        return self.ids == "appearance" or self.min_count > 1

    def preparation(self) -> dict[str, Any]:
        """The options that rows to be scored share with the rows that the model learned from.

        `max_length` is among them only where it is set, as older records lack it.
        """
        names = ["dense_transform", "max_ind_range", "ids", "min_count"]
        names += ["max_length"] * (self.max_length is not None)
        return {name: getattr(self, name) for name in names}

    def to_json(self) -> dict[str, Any]:
        """Return the options as a dict of JSON types, without those of `LATER` that are None."""
        options = asdict(self)
        return {n: value for n, value in options.items() if value is not None or n not in LATER}


def check_count(name: str, value: Any, most: int) -> None:
    """Require a whole number from 1 to `most`; ValueError for anything else."""
    if type(value) is not int or not 1 <= value <= most:
        raise ValueError(f"{name} is {value!r}; it must be a whole number from 1 to {most:,}")
