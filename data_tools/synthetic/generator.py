"""Logs that look like Criteo's click logs, with a planted model whose best AUC is known.

Row r is a function of the preset, the scale, the seed and r alone, so any range of rows can be
written, in any order and any number of pieces, without tables. docs/generator.md describes the
laws of the columns and of the labels.
"""

import gzip
import math
import operator
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
import numpy.typing as npt

from data_tools.storage.atomic import replacing
from data_tools.synthetic import kernels, parameters, text_kernels
from data_tools.synthetic.lists import CARDINALITY, PlantedLists
from data_tools.synthetic.parameters import PILOT_ROWS, PILOT_START
from data_tools.synthetic.presets import PRESETS, LogPreset

__all__ = ["PRESETS", "Generator", "LogPreset"]

BLOCK_ROWS = 8192
LAST_ROW = 2**62
SMALL_COLUMN = 128  # columns of at most this many ids keep them all at any scale
GZIP_LEVEL = 4


class Generator:
    """Streams rows of one synthetic click log.

    Parameters
    ----------
    preset : str
        "kaggle" or "terabyte", a key of `PRESETS`.
    scale : float
        Multiplies the cardinalities; no column falls below 128 ids, or below all its ids where it
        has fewer.
    seed : int
        0 to 2**64 - 1. Another seed is another log: other rows, other per-id effects.
    multi_hot : sequence of int
        Mean lengths of lists, one for each feature of lists L1, L2, ...; such a log is written as
        Parquet. The other columns are those of a log without lists, but clicks depend on the lists
        too.

    Attributes
    ----------
    multi_hot : tuple of str
        Names of the features of lists.
    lists : PlantedLists or None
    params : kernels.Params
        Constants of the other columns.
    cardinalities : tuple of int
        Different ids that each categorical column can show.

    Raises
    ------
    ValueError
        Unknown preset, scale not a finite number above 0, seed or a mean length out of range, or a
        scaled cardinality above 2**32.
    """

    def __init__(
        self,
        preset: str = "kaggle",
        scale: float = 1.0,
        seed: SupportsIndex = 0,
        multi_hot: Sequence[SupportsIndex] = (),
    ) -> None:
        if preset not in PRESETS:
            raise ValueError(f"preset is {preset!r}; use one of {', '.join(map(repr, PRESETS))}")
        if not (math.isfinite(scale) and scale > 0):
            raise ValueError(f"scale is {scale}; it multiplies cardinalities, use a number above 0")
        self.preset = PRESETS[preset]
        self.scale = float(scale)
        self.seed = operator.index(seed)
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"seed is {self.seed}; use 0 <= seed < 2**64")
        self.cardinalities = tuple(
            _scaled(column.cardinality, self.scale) for column in self.preset.categorical
        )
        if max(self.cardinalities) > 2**32:
            raise ValueError(
                f"scale {scale} gives a column of {max(self.cardinalities)} ids, but an id has 32 "
                "bits; use a smaller scale"
            )
        self.lists: PlantedLists | None = None
        added: Any = 0.0
        if len(multi_hot):
            sizes = _scaled(CARDINALITY, self.scale)
            self.lists = PlantedLists(multi_hot, sizes, self.preset.name, self.seed)
            added = self.lists.logits(PILOT_START, PILOT_START + PILOT_ROWS)
        self.multi_hot = self.lists.names if self.lists else ()
        self.params = parameters.params(self.preset, self.cardinalities, self.seed, added)

    def __repr__(self) -> str:
        return f"Generator(preset={self.preset.name!r}, scale={self.scale}, seed={self.seed})"

    def text(self, start: SupportsIndex, stop: SupportsIndex, labelled: bool = True) -> bytes:
        """Rows [start, stop) exactly as `write` writes them.

        Parameters
        ----------
        start, stop : int
            Row numbers, 0 <= start <= stop <= 2**62.
        labelled : bool
            False leaves the label column out; the other fields stay the same.

        Returns
        -------
        bytes
            One line of tab-separated fields per row.

        Raises
        ------
        ValueError
            A row number out of range; or the log has lists, which text cannot hold.
        """
        start, stop = _row_range(start, stop)
        if self.lists is not None:
            raise ValueError("Criteo's text cannot hold lists; write the log to a .parquet file")
        widest = text_kernels.row_bytes(len(self.preset.dense), len(self.preset.categorical))
        out = np.empty((stop - start) * widest, np.uint8)
        end = text_kernels.text(start, stop - start, bool(labelled), self.params, out)
        return out[:end].tobytes()

    def truth(
        self, start: SupportsIndex, stop: SupportsIndex
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """The planted model's view of rows [start, stop).

        Returns
        -------
        probabilities : ndarray, (rows,) float32
            True click probability of each row. Its AUC against the labels is the best that any
            model can expect.
        labels : ndarray, (rows,) float32
            0 or 1, as in the text.

        Raises
        ------
        ValueError
            A row number out of range.
        """
        start, stop = _row_range(start, stop)
        probabilities = np.empty(stop - start, np.float32)
        labels = np.empty(stop - start, np.float32)
        for begin, end in _stretches(start, stop):
            logits = self._logits(begin, end)
            if self.lists is not None:
                logits += self.lists.logits(begin, end)
            part = slice(begin - start, end - start)
            kernels.truth(begin, self.params, logits, probabilities[part], labels[part])
        return probabilities, labels

    def first_id_truth(self, start: SupportsIndex, stop: SupportsIndex) -> npt.NDArray[np.float32]:
        """Click probabilities, given only the first id of each list and all other columns.

        Parameters
        ----------
        start, stop : int
            Row numbers.

        Returns
        -------
        ndarray, (rows,) float32
            The true probability, averaged over the lists that begin with the row's first ids: over
            a sample of them, see docs/generator.md. Its AUC against the labels is the best that a
            model can expect that sees only the first id of each list.

        Raises
        ------
        ValueError
            The log has no lists, or a row number is out of range.
        """
        start, stop = _row_range(start, stop)
        if self.lists is None:
            raise ValueError("the log has no lists; give multi_hot")
        parts = [np.empty(0, np.float32)]
        for begin, end in _stretches(start, stop):
            parts.append(self.lists.first_id_probabilities(begin, end, self._logits(begin, end)))
        return np.concatenate(parts)

    def _logits(self, start: int, stop: int) -> npt.NDArray[np.float64]:
        """Logits of some rows, without what lists add."""
        logits = np.empty(stop - start)
        kernels.logits(start, self.params, logits)
        return logits

    def write(
        self,
        path: str | os.PathLike[str],
        rows: SupportsIndex,
        *,
        start: SupportsIndex = 0,
        labelled: bool = True,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Write rows [start, start + rows) to a text file; to gzip or Parquet by its name.

        The file appears under its name only when it is complete. The same rows give the same bytes,
        of Parquet with the same version of Arrow.

        Parameters
        ----------
        path : path
            A name that ends in ".gz", of either case, is compressed text. ".parquet" is a table of
            the columns of `CRITEO` and, after them, of `multi_hot`.
        rows : int
            Number of rows.
        start : int
            Number of the first row.
        labelled : bool
            False leaves the label column out.
        progress : callable, optional
            Called as progress(rows_done, rows) after each block of rows.

        Raises
        ------
        ValueError
            A negative number, or a row number above 2**62; or the log has lists, but the name does
            not end in ".parquet".
        OSError
            The file cannot be written.
        """
        rows, start = operator.index(rows), operator.index(start)
        if rows < 0:
            raise ValueError(f"rows is {rows}; use rows >= 0")
        start, stop = _row_range(start, start + rows)
        suffix = Path(path).suffix.lower()
        if self.lists is not None and suffix != ".parquet":
            raise ValueError(f"{path} is text, which cannot hold lists; name it .parquet")
        with ExitStack() as opened:
            temporary = opened.enter_context(replacing(path))
            file: Any = opened.enter_context(open(temporary, "wb"))
            make: Callable[[int, int], Any] = partial(self.text, labelled=labelled)
            write = file.write
            if suffix == ".gz":
                # No name and no time in the header, so that the same rows give the same bytes.
                packed = opened.enter_context(gzip.GzipFile("", "wb", GZIP_LEVEL, file, mtime=0))
                write = packed.write
            elif suffix == ".parquet":
                from data_tools.synthetic.parquet import table, table_writer

                make = partial(table, self, labelled=labelled)
                write = opened.enter_context(table_writer(file, self, labelled)).write_table
            for begin, block in _blocks(start, stop, make):
                write(block)
                if progress is not None:
                    progress(min(begin + BLOCK_ROWS, stop) - start, rows)


def _stretches(start: int, stop: int) -> Iterator[tuple[int, int]]:
    """First and last row of each block, the last excluded."""
    for begin in range(start, stop, BLOCK_ROWS):
        yield begin, min(begin + BLOCK_ROWS, stop)


def _blocks(start: int, stop: int, make: Callable[[int, int], Any]) -> Iterator[tuple[int, Any]]:
    """First row and content of each block, in order; the kernels run without the GIL."""
    threads = os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        # One wave at a time, so that a slow disk does not pile up blocks in memory.
        for first in range(start, stop, BLOCK_ROWS * threads * 2):
            wave = list(_stretches(first, min(first + BLOCK_ROWS * threads * 2, stop)))
            blocks = pool.map(lambda rows: make(*rows), wave)
            yield from zip((begin for begin, _ in wave), blocks, strict=True)


def _scaled(cardinality: int, scale: float) -> int:
    return max(round(cardinality * scale), min(cardinality, SMALL_COLUMN))


def _row_range(start: SupportsIndex, stop: SupportsIndex) -> tuple[int, int]:
    start, stop = operator.index(start), operator.index(stop)
    if not 0 <= start <= stop <= LAST_ROW:
        raise ValueError(
            f"rows [{start}, {stop}) were asked for; use 0 <= start <= stop <= 2**62 = {LAST_ROW}"
        )
    return start, stop
