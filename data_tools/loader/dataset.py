"""Open a dataset: a finished folder of shards, mapped and not loaded."""

from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data_tools.batch import Batch, Rows, ShardReader
from data_tools.format.manifest import Manifest
from data_tools.format.shard_reader import no_rows, open_shard
from data_tools.loader.blocks import Blocks
from data_tools.loader.partitions import (
    FRACTIONS,
    SPLIT_NAMES,
    check_partition,
    day_rows,
    part_ends,
)
from data_tools.loader.split import Split
from data_tools.schema import Schema
from data_tools.storage.folders import folder_at, is_remote
from data_tools.storage.paths import check_folder

if TYPE_CHECKING:
    from data_tools.loader.expansion import Expansion


class Dataset:
    """A dataset that `ingest` made.

    Parameters
    ----------
    path : path or fsspec address
        Its folder.

    Raises
    ------
    FileNotFoundError
        There is no such folder; it has no manifest, so it is unfinished; or a shard is missing.
    NotADirectoryError
        The path is a file, or a link to one.
    DatasetError
        The manifest or a shard is damaged, cut off, or of another dataset. Values are not read:
        `verify` does that.
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
        self._blocks = Blocks(readers)
        self._splits: dict[tuple, Split] = {}
        self._random: tuple[tuple, np.ndarray] | None = None
        self._expansion = _expansion(manifest)

    def __repr__(self) -> str:
        labelled = "labelled" if self.labelled else "unlabelled"
        return f"{type(self).__name__}({str(self.path)!r}: {self.num_rows:,} rows, {labelled})"

    @property
    def schema(self) -> Schema:
        """Columns of the batches; the manifest has those of the files.

        They differ only with `multi_hot_sizes`: then single columns are followed by those that
        become lists.
        """
        schema = self.manifest.schema
        return schema if self._expansion is None else self._expansion.schema(schema)

    @property
    def ids_per_row(self) -> tuple[float, ...]:
        """Mean number of ids per row of each multi-hot column of `schema`."""
        made = () if self._expansion is None else self._expansion.ids_per_row
        return (*made, *self.manifest.ids_per_row)

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
        fractions : three floats
            Shares of train, validation and test; their sum is 1.
        by : {"order", "day", "random"}
            "order": the first rows train, the last test. "day": every source is a day, or each
            seventh of a single one; all but the last train, the first half of the last tests and
            the rest validates, as in published results; fractions are not used. "random": the seed
            decides, in 2 bits of memory per row of the dataset. Within a part rows keep their
            order.
        seed : int
            Of the random split.

        Raises
        ------
        ValueError
            `name` or `by` is unknown, the fractions are not shares of a whole, or the seed is
            negative.
        """
        check_partition(name, fractions, by, seed)
        key = name, tuple(fractions), by, seed
        split = self._splits.get(key)  # not looked up twice: other threads may ask for splits too
        if split is None:
            blocks, rows = self._part(*key)
            split = self._splits[key] = Split(blocks, rows, self._no_rows(), self._expansion)
        return split

    def _part(
        self, name: str, fractions: tuple[float, ...], by: str, seed: int
    ) -> tuple[Blocks, range]:
        """The blocks of a part, and its rows among those that they have of it."""
        if name == "all":
            return self._blocks, range(self.num_rows)
        if by == "day":
            return self._blocks, day_rows(self.manifest.rows_per_source(), name)
        ends, part = part_ends(self.num_rows, fractions), SPLIT_NAMES.index(name)
        if by == "order":
            return self._blocks, range(ends[part - 1] if part else 0, ends[part])
        blocks = Blocks(self._readers, self._labels(tuple(ends), seed), part)
        return blocks, range(blocks.num_rows)

    def _labels(self, ends: tuple[int, ...], seed: int) -> np.ndarray:
        """The parts of all rows in a random split; only those of the latest split are kept."""
        from data_tools.loader.random_split import row_parts  # compiled code

        latest = self._random
        if latest is None or latest[0] != (ends, seed):
            self._splits.clear()
            latest = self._random = (ends, seed), row_parts(self.num_rows, ends, seed)
        return latest[1]

    def _no_rows(self) -> Rows:
        manifest = self.manifest
        return no_rows(manifest.schema, manifest.labelled, manifest.index_dtype)


def _expansion(manifest: Manifest) -> "Expansion | None":
    """What makes lists of the manifest's single ids, if it asks for that."""
    options = manifest.options
    if options.multi_hot_sizes is None or options.multi_hot_seed is None:
        return None
    from data_tools.loader.expansion import Expansion  # compiled code

    known = tuple(file.rows for file in manifest.vocabulary[: len(options.multi_hot_sizes)])
    return Expansion(options.multi_hot_sizes, known, options.multi_hot_seed)
