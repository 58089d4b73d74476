"""Text that looks like Criteo's click logs, with a planted model whose best AUC is known.

Row r is a function of the preset, the scale, the seed and r alone, so any range of rows can be
written, in any order and any number of pieces, without tables. docs/generator.md describes the
laws of the columns and of the labels.
"""

import gzip
import hashlib
import math
import operator
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
import numpy.typing as npt

from data_tools.storage.atomic import replacing
from data_tools.synthetic import kernels
from data_tools.synthetic.presets import PRESETS, Categorical, LogPreset

__all__ = ["PRESETS", "Generator", "LogPreset"]

BLOCK_ROWS = 8192
PILOT_ROWS = 65_536
PILOT_START = 2**62  # far from the rows that anybody writes
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

    Attributes
    ----------
    cardinalities : tuple of int
        Different ids that each categorical column can show.

    Raises
    ------
    ValueError
        Unknown preset, scale not a finite number above 0, seed out of range, or a scaled
        cardinality above 2**32.
    """

    def __init__(self, preset: str = "kaggle", scale: float = 1.0, seed: SupportsIndex = 0) -> None:
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
        self._params = _calibrated(_params(self.preset, self.cardinalities, self.seed), self.preset)

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
            A row number out of range.
        """
        start, stop = _row_range(start, stop)
        widest = kernels.row_bytes(len(self.preset.dense), len(self.preset.categorical))
        out = np.empty((stop - start) * widest, np.uint8)
        end = kernels.text(start, stop - start, bool(labelled), self._params, out)
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
        kernels.truth(start, self._params, probabilities, labels)
        return probabilities, labels

    def write(
        self,
        path: str | os.PathLike[str],
        rows: SupportsIndex,
        *,
        start: SupportsIndex = 0,
        labelled: bool = True,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Write rows [start, start + rows) to a text file, or to a gzip file by its name.

        The file appears under its name only when it is complete.

        Parameters
        ----------
        path : path
            A name that ends in ".gz", of either case, is compressed.
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
            A negative number, or a row number above 2**62.
        OSError
            The file cannot be written.
        """
        rows, start = operator.index(rows), operator.index(start)
        if rows < 0:
            raise ValueError(f"rows is {rows}; use rows >= 0")
        start, stop = _row_range(start, start + rows)
        with ExitStack() as opened:
            temporary = opened.enter_context(replacing(path))
            file: Any = opened.enter_context(open(temporary, "wb"))
            if Path(path).suffix.lower() == ".gz":
                # No name and no time in the header, so that the same rows give the same bytes.
                file = opened.enter_context(gzip.GzipFile("", "wb", GZIP_LEVEL, file, mtime=0))
            for begin, block in self._blocks(start, stop, labelled):
                file.write(block)
                if progress is not None:
                    progress(min(begin + BLOCK_ROWS, stop) - start, rows)

    def _blocks(self, start: int, stop: int, labelled: bool) -> Iterator[tuple[int, bytes]]:
        """First row and text of each block, in order; the kernels run without the GIL."""
        threads = os.cpu_count() or 1
        with ThreadPoolExecutor(threads) as pool:
            # One wave at a time, so that a slow disk does not pile up blocks in memory.
            wave = threads * 2
            for first in range(start, stop, BLOCK_ROWS * wave):
                begins = range(first, min(first + BLOCK_ROWS * wave, stop), BLOCK_ROWS)
                blocks = pool.map(
                    lambda begin: self.text(begin, min(begin + BLOCK_ROWS, stop), labelled), begins
                )
                yield from zip(begins, blocks, strict=True)


def _scaled(cardinality: int, scale: float) -> int:
    return max(round(cardinality * scale), min(cardinality, SMALL_COLUMN))


def _row_range(start: SupportsIndex, stop: SupportsIndex) -> tuple[int, int]:
    start, stop = operator.index(start), operator.index(stop)
    if not 0 <= start <= stop <= LAST_ROW:
        raise ValueError(
            f"rows [{start}, {stop}) were asked for; use 0 <= start <= stop <= 2**62 = {LAST_ROW}"
        )
    return start, stop


def _params(preset: LogPreset, cardinalities: tuple[int, ...], seed: int) -> kernels.Params:
    """Constants of the kernels; the scales and the bias of the logit are still neutral."""
    dense, categorical = preset.dense, preset.categorical
    laws = [_inverse_law(*each) for each in zip(categorical, cardinalities, strict=True)]

    def floats(values: list[float]) -> npt.NDArray[np.float64]:
        return np.array(values, np.float64)

    def ints(values: list[int]) -> npt.NDArray[np.int64]:
        return np.array(values, np.int64)

    return kernels.Params(
        row_key=_key("row", preset.name, seed),
        id_key=_key("id", preset.name, seed),
        dense_empty=floats([c.empty for c in dense]),
        dense_stream=ints([c.stream for c in dense]),
        factor=ints([c.factor for c in dense]),
        loading=floats([c.loading for c in dense]),
        mu=floats([c.mu for c in dense]),
        sigma=floats([c.sigma for c in dense]),
        least=floats([c.least for c in dense]),
        minus_one=floats([c.minus_one for c in dense]),
        below=floats([c.below for c in dense]),
        mean_log=floats([c.mean_log for c in dense]),
        std_log=floats([c.std_log for c in dense]),
        effect=floats([c.effect for c in dense]),
        empty_effect=floats([c.empty_effect for c in dense]),
        cat_empty=floats([c.empty for c in categorical]),
        cat_stream=ints([c.stream for c in categorical]),
        chain=ints([c.chain for c in categorical]),
        cat_effect=floats([c.effect for c in categorical]),
        cardinality=ints(list(cardinalities)),
        common=ints([law[0] for law in laws]),
        head=floats([c.head for c in categorical]),
        shift=floats([c.shift for c in categorical]),
        span=floats([law[1] for law in laws]),
        inverse_power=floats([law[2] for law in laws]),
        logit_scale=np.ones(3),
        bias=0.0,
    )


def _inverse_law(column: Categorical, cardinality: int) -> tuple[int, float, float]:
    """Number of common ids, and span and power of the inverse of the rank distribution."""
    common = min(column.common or cardinality, cardinality)
    power = 1.0 - column.exponent
    span = math.expm1(power * math.log1p((common - 1) / column.shift))
    return common, span, 1.0 / power


def _key(purpose: str, preset: str, seed: int) -> np.uint64:
    digest = hashlib.sha256(f"{purpose} {preset} {seed}".encode()).digest()
    return np.uint64(int.from_bytes(digest[:8], "little"))


def _calibrated(params: kernels.Params, preset: LogPreset) -> kernels.Params:
    """Scale the components of the logit to their strengths and set the bias by the click rate.

    Both are measured on pilot rows, so every seed and scale has the same strengths and rate.
    """
    parts = np.empty((PILOT_ROWS, 3))
    kernels.components(PILOT_START, params, parts)
    scale = np.array([preset.dense_std, preset.linear_std, preset.pair_std]) / parts.std(0)
    logits = parts @ scale
    low, high = -logits.max() - 50.0, -logits.min() + 50.0
    for _ in range(60):
        bias = (low + high) / 2
        if (1.0 / (1.0 + np.exp(-(logits + bias)))).mean() < preset.click_rate:
            low = bias
        else:
            high = bias
    return params._replace(logit_scale=scale, bias=float(bias))
