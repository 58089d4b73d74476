"""Measurement against theory: variance of inner products, collisions of ids, rows that share all.

    python -m perf.theory             a minute or two; writes runs/theory/table.md and theory.png
    python -m perf.theory --quick     seconds, to see that it works

Everything measured comes from the package's own functions; every theory is written out here. Each
seed is used by one measurement only, so these are independent. Standard errors are over the seeds.
"""

import argparse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

import numpy as np

from perf.harness import machine
from perf.harness.plots import save
from perf.theory import plots
from perf.theory.plots import Point
from robe_numba import RobeSpec, block_starts, lookup_backward
from robe_numba.formatting import markdown_table
from robe_numba.spec import HASHES

OUR_HASH = HASHES[0]  # mixes ids, independent per block; theory claims less about the others

# Inner products of two fixed vectors x and y of DIM elements.
DIM, BLOCK_SIZES, SIZES = 24, (1, 2, 4, 8, 16), (16, 64, 256)
STARTS = 64  # n, where two ids may start at the same place: few, so that it happens often
PAIRS = 64  # pairs of ids for each seed
STRIDE = 2**16
FILLED = 4096  # n, and the number of ids that fill them
# Rows that share all elements: elements of a row, and for each Z sizes m at which theory expects
# some, but not all, rows to share (more for Z = 4, where some hash families miss the theory).
ROW_DIM = 16
SHARED_SIZES = {
    16: (10_000, 30_000, 100_000, 300_000, 1_000_000),
    8: (300, 1000, 3000, 10_000, 30_000),
    4: (30, 100, 300, 1000, 3000),
}

_unused = count()


@dataclass(frozen=True)
class Effort:
    """How many seeds each measurement takes, and how many rows the last one."""

    products: int = 10_000
    pairs: int = 20_000
    filled: int = 2000
    shared: int = 40
    rows: tuple[int, int] = (10_000, 100_000)


QUICK = Effort(products=250, pairs=400, filled=30, shared=10, rows=(3000, 10_000))


def seeds(number: int) -> list[int]:
    """Seeds that no other point uses."""
    return list(islice(_unused, number))


def inner_products(effort: Effort) -> Iterator[Point]:
    """Two vectors projected by ROBE-Z: the variance with signs, the bias without them."""
    x, y = np.abs(np.random.default_rng(20).standard_normal((2, DIM)))
    for size in SIZES:
        for block_size in BLOCK_SIZES:
            place = f"m = {size}", block_size, f"Z = {block_size}"
            blocks = np.arange(DIM) // block_size
            apart = blocks[:, None] != blocks  # i and j of different blocks
            squares = np.outer(x * x, y * y) + np.outer(x * y, x * y)

            signed = projected(x, y, size, block_size, seeds(effort.products), sign=True)
            # The relative error of a sample variance is sqrt((kurtosis - 1) / seeds).
            kurtosis = ((signed - signed.mean()) ** 4).mean() / signed.var() ** 2
            error = signed.var() * np.sqrt((kurtosis - 1) / len(signed))
            variance = squares[apart].sum() / size
            yield Point("variance, signed", *place, signed.var(), error, variance)
            yield mean_of("mean error, signed", *place, signed - x @ y, 0)

            unsigned = projected(x, y, size, block_size, seeds(effort.products // 2), sign=False)
            bias = np.outer(x, y)[apart].sum() / size
            yield mean_of("bias, unsigned", *place, unsigned - x @ y, bias)


def projected(
    x: np.ndarray, y: np.ndarray, size: int, block_size: int, seeds: Sequence[int], sign: bool
) -> np.ndarray:
    """The inner product of x and y after projection by each seed's hash: (seeds,) float64."""
    products, index = np.empty(len(seeds)), np.zeros((1, 1), np.int64)
    for i, seed in enumerate(seeds):
        spec = RobeSpec(size, block_size, DIM, 1, seed=seed, sign=sign)
        # Projecting a vector is the backward pass of reading it.
        sketches = (lookup_backward(v.reshape(1, 1, DIM), index, spec) for v in (x, y))
        products[i] = np.dot(*sketches)
    return products


def mean_of(
    quantity: str, line: str, x: float, at: str, sample: np.ndarray, theory: float
) -> Point:
    """The mean over seeds."""
    error = sample.std(ddof=1) / np.sqrt(len(sample))
    return Point(quantity, line, x, at, sample.mean(), error, theory)


def same_start(effort: Effort) -> Iterator[Point]:
    """How often two different ids start at the same place: theory 1/n, whatever the ids."""
    generator = np.random.default_rng(21)
    first = generator.integers(0, 2**30, PAIRS)
    partners = {
        "contiguous": first + 1,
        f"strided by {STRIDE}": first + STRIDE,
        "random": first + generator.integers(1, 2**30, PAIRS),
    }
    ids = np.stack([first, *partners.values()])
    for family in HASHES:
        rates = []
        for seed in seeds(effort.pairs):
            spec = RobeSpec(STARTS, 1, 1, 1, hash=family, seed=seed)
            starts = block_starts(ids.reshape(-1, 1), spec).reshape(ids.shape)
            rates.append((starts[1:] == starts[0]).mean(axis=1))
        for x, (kind, sample) in enumerate(zip(partners, np.array(rates).T, strict=True)):
            yield mean_of("same start", family, x, f"{kind} ids", sample, 1 / STARTS)


def distinct_starts(effort: Effort) -> Iterator[Point]:
    """How many of n starts n ids fill, against independent uniform starts: spread over seeds."""
    generator = np.random.default_rng(22)
    theory = FILLED * (1 - (1 - 1 / FILLED) ** FILLED)
    kinds = {
        "contiguous": np.arange(FILLED),
        f"strided by {STRIDE}": np.arange(FILLED) * STRIDE,
        "random": generator.choice(2**30, FILLED, replace=False),
    }
    for family in HASHES:
        for x, (kind, ids) in enumerate(kinds.items()):
            filled = np.empty(effort.filled)
            for i, seed in enumerate(seeds(effort.filled)):
                spec = RobeSpec(FILLED, 1, 1, 1, hash=family, seed=seed)
                filled[i] = len(np.unique(block_starts(ids.reshape(-1, 1), spec)))
            error = filled.std(ddof=1) / np.sqrt(len(filled))
            of = "distinct starts", family, x, f"{kind} ids"
            yield Point(*of, filled.mean(), error, theory, family == OUR_HASH, filled)


def shared_rows(effort: Effort) -> Iterator[Point]:
    """How many of N rows have all their elements in common with another row."""
    for family in HASHES:
        for rows in effort.rows if family == OUR_HASH else effort.rows[-1:]:
            for block_size, sizes in SHARED_SIZES.items():
                for size in sizes:
                    yield shared_point(family, rows, block_size, size, seeds(effort.shared))


def shared_point(family: str, rows: int, block_size: int, size: int, seeds: Sequence[int]) -> Point:
    """One such count, of random ids; with regular ids it would also depend on `distinct_starts`."""
    ids = np.random.default_rng(23).choice(2**30, rows, replace=False).reshape(-1, 1)
    found = np.empty(len(seeds))
    for i, seed in enumerate(seeds):
        spec = RobeSpec(size, block_size, ROW_DIM, 1, hash=family, seed=seed)
        starts = block_starts(ids, spec)[:, 0]
        tuples = starts @ size ** np.arange(spec.num_blocks)  # one number for each, below 2^63
        _, times = np.unique(tuples, return_counts=True)
        found[i] = times[times > 1].sum()
    places = (size - block_size + 1 if family == "uma" else size) ** spec.num_blocks  # n^B
    theory = -rows * np.expm1((rows - 1) * np.log1p(-1 / places))  # N (1 - (1 - n^-B)^(N - 1))
    error = found.std(ddof=1) / np.sqrt(len(found))
    if not error:  # all or none in every seed; exceptions come in pairs, about Poisson
        error = np.sqrt(2 * min(theory, rows - theory) / len(found))
    of = "rows that share all", f"{family}, {rows:,} rows, Z = {block_size}", size, f"m = {size:,}"
    return Point(*of, found.mean(), error, theory, family == OUR_HASH, found)


def table_of(points: Iterable[Point]) -> str:
    """All points in Markdown."""
    lines = []
    for p in points:
        deviation = f"{p.deviation:+.1f}" if p.claimed else "not claimed"
        spread = "" if p.sample is None else f"{p.sample.min():,.0f}, {p.sample.max():,.0f}"
        measured = f"{p.measured:.5g} ± {2 * p.error:.2g}"
        place = f"{p.line}, {p.at}"
        lines.append((p.quantity, place, measured, f"{p.theory:.5g}", deviation, spread))
    header = ["what", "of", "measured ± 2 standard errors", "theory"]
    header += ["deviation, standard errors", "least and most of a seed"]
    return markdown_table(header, lines)


def worst(points: Sequence[Point]) -> Iterator[str]:
    """The largest deviation from a claimed value, for each quantity."""
    for quantity in dict.fromkeys(p.quantity for p in points):
        claimed = [p for p in points if p.quantity == quantity and p.claimed]
        far = max(claimed, key=lambda p: abs(p.deviation))
        yield (
            f"{quantity}: largest of {len(claimed)} deviations {far.deviation:+.2f} standard "
            f"errors ({far.line}, {far.at})"
        )


def main() -> None:
    """Measure, print the largest deviations, write the table and the plot."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a few seeds only")
    parser.add_argument("--output", type=Path, default=Path("runs/theory"))
    options = parser.parse_args()
    effort, points = QUICK if options.quick else Effort(), []
    for panel in (inner_products, same_start, distinct_starts, shared_rows):
        print(f"{panel.__name__} ...", flush=True)
        mine = list(panel(effort))
        points += mine
        print("\n".join(worst(mine)), flush=True)
    save(plots.draw(points), options.output / "theory.png")
    (options.output / "table.md").write_text(
        f"{machine.describe()}; {effort}.\n\n{table_of(points)}\n"
    )
    print(f"{options.output}/table.md and theory.png")


if __name__ == "__main__":
    main()
