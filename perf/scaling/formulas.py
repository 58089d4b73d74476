"""What is trained, the bytes that it exchanges, and seconds of one step, all by formula.

Rates are seconds of one process, a `Line` over what it does; bytes are counted as
`robe_numba.parallel` counts them. Symbols: P processes, a batch of B rows, T tables, embeddings of
d elements in blocks of Z, an array of m, n dense parameters.

    gather   rows(B/P) + update(B) + optimizer + t(gradients) + t(loss)
             + what the layers do not hide of t(ids), rows(B/P) at most
             + what the update does not hide of t(dense), update(B) at most
    reduce   rows(B/P) + gradient(B/P) + apply(B) + optimizer + t(array) + t(loss)
             + what applying does not hide of t(dense), apply(B) at most
    sharded  rows(B/P) + lookup(B/P) + update(B/P) + optimizer + t(starts) + t(blocks)
             + t(gradients) + t(loss) + what the update does not hide of t(dense)

    t(x) = messages * latency + bytes / bandwidth, and for sums what adding up takes

Gathers take P - 1 messages, sums 2 (P - 1), the loss log2 P. `sharded` does not exist here: the
array cut into P ranges, each with its owner, who is told the starts of blocks, sends the blocks,
gets their gradients, and updates; all are taken to be asked for as many. Left out everywhere:
waiting for a process that is slower than others, and what transfers take of processors and memory.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from perf.harness import checkout  # noqa: F401  (first; see there)
from robe_numba.dlrm import PRESETS, DLRMConfig
from robe_numba.parallel.carriers.base import share_of

ITEM, ID, START = 4, 4, 8  # bytes of an element, of an id, of where a block begins
GATHER, REDUCE, SHARDED = DESIGNS = ("gather", "reduce", "sharded")


@dataclass(frozen=True)
class Model:
    """What is trained.

    Parameters
    ----------
    name : as it stands in tables.
    config : the layers.
    array_size, block_size : m and Z.
    optimizer : "sgd" or "adagrad", of all parameters.
    """

    name: str
    config: DLRMConfig
    array_size: int
    block_size: int
    optimizer: str = "sgd"

    @property
    def dense_size(self) -> int:
        """n."""
        return sum(map(math.prod, self.config.parameter_shapes().values()))

    @property
    def row_elements(self) -> int:
        """T d, elements of the embeddings of one row."""
        return self.config.num_tables * self.config.embedding_dim

    @property
    def row_ids(self) -> int:
        """Bytes of the ids of one row."""
        return self.config.num_tables * ID

    @property
    def row_bytes(self) -> int:
        """Of the ids and gradients of one row."""
        return self.row_elements * ITEM + self.row_ids

    @property
    def row_blocks(self) -> int:
        """Blocks that one row reads."""
        return self.config.num_tables * -(-self.config.embedding_dim // self.block_size)

    def touched(self, rows: int) -> float:
        """Elements of the array that so many rows of random ids read, on average."""
        return self.array_size * -math.expm1(-rows * self.row_elements / self.array_size)


KAGGLE = Model("kaggle", PRESETS["kaggle"].config, 540_000, 16)
ADAGRAD = replace(KAGGLE, name="kaggle, Adagrad", optimizer="adagrad")
MLPERF = Model("mlperf", PRESETS["mlperf"].config, 25_000_000, 128)
TINY = Model("tiny", DLRMConfig(4, 3, 16, (8,), (8,)), 4096, 16)
MODELS = {model.name: model for model in (KAGGLE, ADAGRAD, MLPERF, TINY)}


def copies(design: str, optimizer: str, state_block: int = 1) -> float:
    """Arrays of m elements that a process holds: weights, sums, and the gradient if dense.

    Where MPI adds up, and not NCCL, there is another: what the others sent.
    """
    return 1 + (optimizer == "adagrad") / state_block + (design == REDUCE)


# Bytes that come to a process from the others; without a rank the most of any.


def gather_bytes(count: int, row_bytes: int, processes: int, rank: int | None = None) -> int:
    """Of all rows but its own share; the first rank has the smallest."""
    return (count - len(share_of(count, rank or 0, processes))) * row_bytes


def sum_bytes(elements: int, processes: int, rank: int | None = None) -> int:
    """Its share of every other's array, then the sums of other shares; the last has the largest."""
    own = len(share_of(elements, processes - 1 if rank is None else rank, processes))
    return ((processes - 1) * own + elements - own) * ITEM


def number_bytes(processes: int) -> int:
    """Loss and squared norm."""
    return 2 * 8 * (processes - 1)


def exchange_bytes(
    model: Model, design: str, batch: int, processes: int, rank: int | None = None
) -> int:
    """Of the embedding in one step."""
    if design == REDUCE:
        return sum_bytes(model.array_size, processes, rank)
    if design == GATHER:
        return gather_bytes(batch, model.row_bytes, processes, rank)
    # Starts come to the owners of their blocks, and gradients of these; blocks come back.
    row = 2 * model.row_elements * ITEM + model.row_blocks * START
    return round(batch / processes * row * (processes - 1) / processes)


def step_bytes(model: Model, design: str, batch: int, processes: int) -> int:
    """Of a whole step, the most of any process."""
    return number_bytes(processes) + max(
        exchange_bytes(model, design, batch, processes, rank)
        + sum_bytes(model.dense_size, processes, rank)
        for rank in range(processes)
    )


def crossover(model: Model) -> float:
    """Rows of a batch above which `reduce` brings fewer bytes than `gather`, for any P."""
    return 2 * model.array_size * ITEM / model.row_bytes


# Seconds of one step.


class Line(NamedTuple):
    """Seconds that grow with a count."""

    fixed: float
    each: float

    def at(self, count: float) -> float:
        """Seconds of so many."""
        return self.fixed + self.each * count

    @classmethod
    def fit(cls, points: Iterable[tuple[float, float]]) -> "Line":
        """Through (count, seconds) with the least relative errors, and no part below 0."""
        counts, seconds = np.array(sorted(points), float).T
        terms = np.stack([np.ones_like(counts), counts], axis=1) / seconds[:, None]
        fixed, each = map(float, np.linalg.lstsq(terms, np.ones_like(counts))[0])
        if fixed < 0 or len(counts) == 1:
            return cls(0.0, float(np.median(seconds / counts)))
        return cls(fixed, each) if each > 0 else cls(float(np.median(seconds)), 0.0)


@dataclass(frozen=True)
class Rates:
    """Seconds of one process.

    Parameters
    ----------
    rows : forward and backward pass, over rows.
    lookup : of embeddings alone, over rows.
    update : of the array by the gradients of rows.
    gradient : the dense gradient of the array, over the rows that it is of.
    apply : of a dense gradient, over the elements that are not 0.
    add : of arrays of other processes, over the elements of all.
    optimizer : the step of the dense parameters.
    """

    rows: Line
    lookup: Line
    update: Line
    gradient: Line
    apply: Line
    add: Line
    optimizer: float


@dataclass(frozen=True)
class Link:
    """What connects processes.

    Parameters
    ----------
    latency : seconds of one message.
    bandwidth : bytes per second into a process where all get the same, as in gathers and sums.
    pairs : the same where each pair has its own; None where it makes no difference.
    """

    name: str
    latency: float
    bandwidth: float
    pairs: float | None = None

    def seconds(self, messages: int, nbytes: float, pairs: bool = False) -> float:
        """Of a collective call, for one process."""
        bandwidth = self.pairs if pairs and self.pairs else self.bandwidth
        return messages * self.latency + nbytes / bandwidth


class Step(NamedTuple):
    """Seconds of the parts of a step; `transfers` are those that nothing hides."""

    rows: float
    embedding: float
    optimizer: float
    transfers: float

    @property
    def seconds(self) -> float:
        """Of all."""
        return sum(self)


def step(
    model: Model,
    design: str,
    rates: Rates,
    link: Link,
    batch: int,
    processes: int,
    overlap: bool = True,
) -> Step:
    """One step of a batch in so many processes."""
    rows = rates.rows.at(-(-batch // processes))
    if processes == 1:
        return Step(rows, rates.update.at(batch), rates.optimizer, 0.0)

    def left(transfer: float, hiding: float) -> float:
        return max(0.0, transfer - hiding) if overlap else transfer

    embedding, hiding, early, late = _exchange(model, design, rates, link, batch, processes)
    loss = link.seconds(math.ceil(math.log2(processes)), number_bytes(processes))
    dense = _adding_up(model.dense_size, rates, link, processes)
    exposed = loss + late + left(early, rows) + left(dense, hiding)
    return Step(rows, embedding, rates.optimizer, exposed)


def _exchange(
    model: Model, design: str, rates: Rates, link: Link, batch: int, processes: int
) -> tuple[float, float, float, float]:
    """Of the embedding: all computing, what of it can hide a transfer, and the transfers that the
    layers can hide and that nothing can.
    """
    own, others = -(-batch // processes), processes - 1  # others: messages of a ring or of pairs
    if design == GATHER:
        update, widths = rates.update.at(batch), (model.row_ids, model.row_elements * ITEM)
        sizes = (gather_bytes(batch, width, processes) for width in widths)
        ids, gradients = (link.seconds(others, size) for size in sizes)
        return update, update, ids, gradients
    if design == REDUCE:
        apply = rates.apply.at(model.touched(batch))
        array = _adding_up(model.array_size, rates, link, processes)
        return rates.gradient.at(own) + apply, apply, 0.0, array
    # An owner reads blocks for others as for itself; `rows` has one lookup already, so this is the
    # price of putting what came into its place.
    update, carried = rates.update.at(own), exchange_bytes(model, design, batch, processes)
    every = link.seconds(3 * others, carried, pairs=True)
    return update + rates.lookup.at(own), update, 0.0, every


def _adding_up(elements: int, rates: Rates, link: Link, processes: int) -> float:
    """Seconds of a sum over all processes."""
    carried = link.seconds(2 * (processes - 1), sum_bytes(elements, processes))
    return carried + rates.add.at(elements)
