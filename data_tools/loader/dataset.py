"""Open a dataset: a finished folder of shards, mapped and not loaded."""

import math
import operator
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.batch import Batch, ShardReader
from data_tools.format.manifest import Manifest
from data_tools.format.shard_reader import no_rows, open_shard
from data_tools.loader.split import Split, day_rows, permutation
from data_tools.schema import Schema
from data_tools.storage.folders import folder_at, is_remote
from data_tools.storage.paths import check_folder

SPLIT_NAMES = ("train", "validation", "test")
FRACTIONS = (0.8, 0.1, 0.1)


class Dataset:
    """A dataset that `ingest` made.

    Parameters
    ----------
    path : path or fsspec address     Its folder.

    Raises
    ------
    FileNotFoundError : no such folder; no manifest, so it is unfinished; or a shard is missing.
    NotADirectoryError : the path is a file, or a link to one.
    DatasetError : the manifest or a shard is damaged, cut off, or of another dataset. Values are
        not read: `verify` does that.
    """

    path: str | Path
    manifest: Manifest

    def __init__(self, path: str | Path) -> None:
        self.path = path if is_remote(path) else Path(path)
        if isinstance(self.path, Path):
            check_folder(self.path, "make a dataset with robe ingest")
        folder = folder_at(path)
        manifest = Manifest.load(folder)
        readers = [open_shard(folder, manifest, n) for n in range(len(manifest.shards))]
        self._open(manifest, readers)

    def _open(self, manifest: Manifest, readers: list) -> None:
        self.manifest = manifest
        self._readers: list[ShardReader] = readers

    def __repr__(self) -> str:
        labelled = "labelled" if self.labelled else "unlabelled"
        return f"{type(self).__name__}({str(self.path)!r}: {self.num_rows:,} rows, {labelled})"

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
        """Share of rows with label 1; None where unlabelled, not counted, or without rows."""
        if self.manifest.positives is None or not self.num_rows:
            return None
        return self.manifest.positives / self.num_rows

    def batches(self, batch_size: int, **options: Any) -> Generator[Batch, None, None]:
        """Iterate over all rows once: `split("all").batches`, see there."""
        return self.split("all").batches(batch_size, **options)

    def split(
        self,
        name: str,
        fractions: tuple[float, float, float] = FRACTIONS,
        by: str = "order",
        seed: int = 0,
    ) -> Split:
        """Return one part of the rows. The three parts are disjoint and cover all rows.

        Parameters
        ----------
        name : {"train", "validation", "test", "all"}
        fractions : three floats        Shares of train, validation and test; their sum is 1.
        by : {"order", "day", "random"}
            "order": the first rows train, the last test. "day": every source is a day, or each
            seventh of a single one; all but the last train, the first half of the last tests and
            the rest validates, as in published results; fractions are not used. "random": a
            permutation of the rows decides, which takes 4 bytes of memory per row (8 from 2**32).
            Within a part rows keep their order.
        seed : int                      Of that permutation.

        Raises
        ------
        ValueError : an unknown name or `by`, fractions that are no shares of a whole, or a
            negative seed.
        """
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
        return Split(self._readers, self._rows(name, fractions, by, seed), self._no_rows())

    def _rows(
        self, name: str, fractions: tuple[float, float, float], by: str, seed: int
    ) -> range | np.ndarray:
        """Row numbers of a part."""
        if name == "all":
            return range(self.num_rows)
        if by == "day":
            return day_rows(self.manifest.rows_per_source(), name)
        part = SPLIT_NAMES.index(name)
        start, stop = (round(sum(fractions[:n]) * self.num_rows) for n in (part, part + 1))
        if by == "order":
            return range(start, stop)
        return np.sort(permutation(self.num_rows, (0, seed))[start:stop])

    def _no_rows(self) -> Batch:
        manifest = self.manifest
        return no_rows(manifest.schema, manifest.labelled, manifest.index_dtype)
