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
# Older manifests lack them.
LATER = ("separator", "list_separator", "max_length", "multi_hot_sizes", "multi_hot_seed")
# Of Criteo's columns in MLPerf's DLRM-DCNv2: ids per row.
MLPERF_SIZES = (3, 2, 1, 2, 6, 1, 1, 1, 1, 7, 3, 8, 1, 6, 9, 5, 1, 1, 1, 12, 100, 27, 10, 3, 1, 1)
MOST_IDS = 1 << 16  # that a single id may become
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
    multi_hot_sizes: tuple[int, ...] | None = None
    multi_hot_seed: int | None = None  # None without sizes

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
        self._check_multi_hot()

    def _check_multi_hot(self) -> None:
        if (self.multi_hot_sizes is None) != (self.multi_hot_seed is None):
            raise ValueError("multi_hot_sizes and multi_hot_seed go together; give both")
        if self.multi_hot_sizes is None:
            return
        for size in self.multi_hot_sizes:
            check_count("a size of multi_hot_sizes", size, MOST_IDS)
        if type(self.multi_hot_seed) is not int or not 0 <= self.multi_hot_seed < 2**63:
            raise ValueError(
                f"multi_hot_seed is {self.multi_hot_seed!r}; it must be a whole number from 0 to "
                "2**63 - 1"
            )
        if self.ids != "appearance":
            raise ValueError(
                f"multi_hot_sizes draw from the known ids of a column, but ids is {self.ids!r}, "
                'which knows none; use ids="appearance" (--ids appearance)'
            )

    def check_columns(self, num_categorical: int) -> None:
        """Refuse sizes that are not one for each categorical column.

        Raises
        ------
        ValueError
        """
        if self.multi_hot_sizes is not None and len(self.multi_hot_sizes) != num_categorical:
            raise ValueError(
                f"multi_hot_sizes has {len(self.multi_hot_sizes)} numbers for {num_categorical} "
                "categorical columns; give one for each, 1 for a column that stays single"
            )

    @property
    def counts_ids(self) -> bool:
        """Whether ids are counted before rows are written, which takes a second pass."""
        return self.ids == "appearance" or self.min_count > 1

    def preparation(self) -> dict[str, Any]:
        """The options that rows to be scored share with the rows that the model learned from.

        Those of lists are among them only where they are set, as older records lack them.
        """
        names = ["dense_transform", "max_ind_range", "ids", "min_count"]
        lists = ("max_length", "multi_hot_sizes", "multi_hot_seed")
        names += [name for name in lists if getattr(self, name) is not None]
        return {name: getattr(self, name) for name in names}

    def to_json(self) -> dict[str, Any]:
        """Return the options as a dict of JSON types, without those of `LATER` that are None."""
        options = asdict(self)
        return {n: value for n, value in options.items() if value is not None or n not in LATER}


def check_count(name: str, value: Any, most: int) -> None:
    """Require a whole number from 1 to `most`; ValueError for anything else."""
    if type(value) is not int or not 1 <= value <= most:
        raise ValueError(f"{name} is {value!r}; it must be a whole number from 1 to {most:,}")


def multi_hot_options(sizes: str | tuple[int, ...] | None, seed: int) -> dict[str, Any]:
    """The options that make lists of single ids, with the sizes that "mlperf" names; {} without.

    Raises
    ------
    ValueError
        Sizes of another name, or a seed without sizes.
    """
    if sizes is None:
        if seed:
            raise ValueError(f"multi_hot_seed is {seed}, but there are no multi_hot_sizes")
        return {}
    if sizes != "mlperf" and isinstance(sizes, str):
        raise ValueError(f"multi_hot_sizes is {sizes!r}; use a tuple of numbers, or 'mlperf'")
    chosen = MLPERF_SIZES if sizes == "mlperf" else tuple(sizes)
    return {"multi_hot_sizes": chosen, "multi_hot_seed": seed}
