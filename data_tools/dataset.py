"""Open a dataset: a finished folder of shards, mapped and not loaded."""

import math
from pathlib import Path

import numpy as np

from data_tools.batch import Batch
from data_tools.manifest import Manifest
from data_tools.schema import Schema
from data_tools.shards import open_shard
from data_tools.split import Split, permutation

SPLIT_NAMES = ("train", "validation", "test")


class Dataset:
    """A dataset that `ingest` made.

    Parameters
    ----------
    path : path     Its folder.

    Raises
    ------
    FileNotFoundError : no such folder; no manifest, so it is unfinished; or a shard is missing.
    DatasetError : the manifest or a shard is damaged, cut off, or of another dataset.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.manifest = manifest = Manifest.load(self.path)
        self._shards = [open_shard(self.path, manifest, n) for n in range(len(manifest.shards))]
        if not self._shards:
            self._shards = [_no_rows(manifest)]

    def __repr__(self) -> str:
        labelled = "labelled" if self.labelled else "unlabelled"
        return f"Dataset({str(self.path)!r}: {self.num_rows:,} rows, {labelled})"

    @property
    def schema(self) -> Schema:
        """Names of the columns."""
        return self.manifest.schema

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return self.manifest.rows

    @property
    def labelled(self) -> bool:
        """Whether the rows have labels."""
        return self.manifest.labelled

    @property
    def click_rate(self) -> float | None:
        """Share of rows with label 1; None where unlabelled or without rows."""
        if self.manifest.positives is None or not self.num_rows:
            return None
        return self.manifest.positives / self.num_rows

    def split(
        self,
        name: str,
        fractions: tuple[float, float, float] = (0.8, 0.1, 0.1),
        by: str = "order",
        seed: int = 0,
    ) -> Split:
        """Return one part of the rows. The three parts are disjoint and cover all rows.

        Parameters
        ----------
        name : {"train", "validation", "test", "all"}
        fractions : three floats        Shares of train, validation and test; their sum is 1.
        by : {"order", "random"}        The first rows train, the last test; or a permutation of
                                        the rows decides. Within a part rows keep their order.
        seed : int                      Of that permutation.

        Raises
        ------
        ValueError : an unknown name or `by`, fractions that are no shares of a whole, or a
            negative seed.
        """
        if name not in (*SPLIT_NAMES, "all"):
            raise ValueError(f"there is no split {name!r}; choose {', '.join(SPLIT_NAMES)} or all")
        if by not in ("order", "random"):
            raise ValueError(f'by is {by!r}; choose "order" or "random"')
        if seed < 0:
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
        if name == "all":
            return Split(self._shards, range(self.num_rows))
        part = SPLIT_NAMES.index(name)
        start, stop = (round(sum(fractions[:n]) * self.num_rows) for n in (part, part + 1))
        if by == "order":
            return Split(self._shards, range(start, stop))
        return Split(self._shards, np.sort(permutation(self.num_rows, (0, seed))[start:stop]))


def _no_rows(manifest: Manifest) -> Batch:
    """Arrays of no rows, of the widths and types of the dataset."""
    schema = manifest.schema
    return Batch(
        np.empty(0, np.float32) if manifest.labelled else None,
        np.empty((0, schema.num_dense), np.float32),
        np.empty((0, schema.num_categorical), manifest.index_dtype),
    )
