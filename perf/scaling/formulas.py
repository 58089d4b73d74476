"""Bytes and seconds of a training step in several processes, by formula.

Costs are seconds of one process, linear in what it does. Symbols: P processes, a batch of B rows, T
tables, embeddings of d elements in blocks of Z, an array of m, n dense parameters.

    gather   rows(B/P) + update(B) + optimizer + t(gradients) + t(loss)
             + what the layers do not hide of t(ids), rows(B/P) at most
             + what the update does not hide of t(dense), update(B) at most
    reduce   rows(B/P) + gradient(B/P) + apply(B) + optimizer + t(array) + t(loss)
             + what applying does not hide of t(dense), apply(B) at most
    sharded  rows(B/P) + lookup(B/P) + update(B/P) + optimizer + t(starts) + t(blocks)
             + t(gradients) + t(loss) + what the update does not hide of t(dense)

    t(x) = messages * latency + bytes / bandwidth, and for sums the time to add up

Gathers take P - 1 messages, sums 2 (P - 1), the loss log2 P. `sharded` is a design that is not
implemented (docs/scaling.md); all owners are taken to get equally many requests. The formulas leave
out waiting for slower processes, and the processor time and memory bandwidth of transfers.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from robe_numba.dlrm import PRESETS, DLRMConfig

ITEM, ID, START = 4, 4, 8  # bytes of an element, of an id, of the start of a block
GATHER, REDUCE, SHARDED = DESIGNS = ("gather", "reduce", "sharded")


@dataclass(frozen=True)
class ScaledModel:
    """A DLRM over a ROBE array of m elements in blocks of Z; one optimizer for all parameters."""

    name: str
    config: DLRMConfig
    array_size: int
    block_size: int
    optimizer: str = "sgd"

    @property
    def dense_size(self) -> int:
        """The number of dense parameters, n."""
        return sum(map(math.prod, self.config.parameter_shapes().values()))

    @property
    def row_elements(self) -> int:
        """T d, elements of the embeddings of one row."""
        return self.config.num_tables * self.config.embedding_dim

    @property
    def row_bytes(self) -> int:
        """Bytes of the ids and gradients of one row."""
        return self.row_elements * ITEM + self.config.num_tables * ID

    def touched(self, rows: int) -> float:
        """The mean number of array elements that `rows` rows of random ids read."""
        return self.array_size * -math.expm1(-rows * self.row_elements / self.array_size)


KAGGLE = ScaledModel("kaggle", PRESETS["kaggle"].config, 540_000, 16)
ADAGRAD = replace(KAGGLE, name="kaggle, Adagrad", optimizer="adagrad")
MLPERF = ScaledModel("mlperf", PRESETS["mlperf"].config, 25_000_000, 128)
TINY = ScaledModel("tiny", DLRMConfig(4, 3, 16, (8,), (8,)), 4096, 16)
MODELS = {model.name: model for model in (KAGGLE, ADAGRAD, MLPERF, TINY)}


def copies(design: str, optimizer: str, state_block: int = 1) -> float:
    """Arrays of m elements in a process: weights, Adagrad's sums, and the gradient if dense.

    MPI needs one more to add up, for what the others sent; NCCL does not.
    """
    return 1 + (optimizer == "adagrad") / state_block + (design == REDUCE)


# Bytes that come to a process from the others, the most of any.


def gather_bytes(count: int, row_bytes: int, processes: int) -> int:
    """Bytes of all rows except its own share, for the process with the smallest share."""
    return (count - count // processes) * row_bytes


def sum_bytes(elements: int, processes: int) -> int:
    """Bytes of its share of every other array, then the sums of the others' shares."""
    own = -(-elements // processes)  # the largest share
    return ((processes - 1) * own + elements - own) * ITEM


def exchange_bytes(model: ScaledModel, design: str, batch: int, processes: int) -> int:
    """Bytes of the embedding in one step."""
    if design == REDUCE:
        return sum_bytes(model.array_size, processes)
    if design == GATHER:
        return gather_bytes(batch, model.row_bytes, processes)
    # Starts go to the owners of their blocks, and gradients too; blocks come back.
    blocks = model.config.num_tables * -(-model.config.embedding_dim // model.block_size)
    row = 2 * model.row_elements * ITEM + blocks * START
    return round(batch / processes * row * (processes - 1) / processes)


def crossover(model: ScaledModel) -> float:
    """Rows of a batch above which `reduce` brings fewer bytes than `gather`, for any P."""
    return 2 * model.array_size * ITEM / model.row_bytes


# Seconds of one step.


class LinearCost(NamedTuple):
    """Seconds that grow linearly with a count."""

    fixed: float
    each: float

    def at(self, count: float) -> float:
        """Seconds for a count."""
        return self.fixed + self.each * count

    @classmethod
    def fit(cls, points: Iterable[tuple[float, float]]) -> "LinearCost":
        """Fit (count, seconds) with the least relative errors, and neither part below 0."""
        counts, seconds = np.array(sorted(points), float).T
        terms = np.stack([np.ones_like(counts), counts], axis=1) / seconds[:, None]
        fixed, each = map(float, np.linalg.lstsq(terms, np.ones_like(counts))[0])
        if fixed < 0 or len(counts) == 1:
            return cls(0.0, float(np.median(seconds / counts)))
        return cls(fixed, each) if each > 0 else cls(float(np.median(seconds)), 0.0)


@dataclass(frozen=True)
class ProcessRates:
    """Seconds of the parts of a step in one process."""

    rows: LinearCost  # forward and backward pass, over rows
    lookup: LinearCost  # embeddings alone, over rows
    update: LinearCost  # of the array by gradients of rows, over rows
    gradient: LinearCost  # dense gradient of the array, over rows
    apply: LinearCost  # a dense gradient, over its elements that are not 0
    add: LinearCost  # arrays of other processes, over the elements of all
    optimizer: float  # the step of the dense parameters


@dataclass(frozen=True)
class Link:
    """The connection between processes.

    `bandwidth` is in bytes per second into a process where all get the same, as in gathers and
    sums; `pairs` is that where each pair exchanges its own bytes, if it differs.
    """

    name: str
    latency: float  # seconds of a message
    bandwidth: float
    pairs: float | None = None

    def seconds(self, messages: int, nbytes: float, pairs: bool = False) -> float:
        """Seconds of a collective call, for one process."""
        bandwidth = self.pairs if pairs and self.pairs else self.bandwidth
        return messages * self.latency + nbytes / bandwidth


class StepCost(NamedTuple):
    """Seconds of the parts of a step; `transfers` counts only those that nothing hides."""

    rows: float
    embedding: float
    optimizer: float
    transfers: float

    @property
    def seconds(self) -> float:
        """Seconds of the whole step."""
        return sum(self)


def step(
    model: ScaledModel,
    design: str,
    rates: ProcessRates,
    link: Link,
    batch: int,
    processes: int,
    overlap: bool = True,
) -> StepCost:
    """The cost of a training step with a batch over all processes."""
    own, others = -(-batch // processes), processes - 1  # others: messages of a ring or of pairs
    rows, update = rates.rows.at(own), rates.update.at(batch)
    if processes == 1:
        return StepCost(rows, update, rates.optimizer, 0.0)

    def add_up(elements: int) -> float:
        return link.seconds(2 * others, sum_bytes(elements, processes)) + rates.add.at(elements)

    # Computing for the embedding, the part of it that hides a transfer, and transfers that the
    # layers can hide and that nothing can.
    if design == GATHER:
        widths = model.config.num_tables * ID, model.row_elements * ITEM
        early, late = (
            link.seconds(others, gather_bytes(batch, width, processes)) for width in widths
        )
        embedding = hiding = update
    elif design == REDUCE:
        hiding = rates.apply.at(model.touched(batch))
        embedding, early, late = rates.gradient.at(own) + hiding, 0.0, add_up(model.array_size)
    else:
        # An owner reads blocks for others as for itself. `rows` includes one lookup, so the second
        # one is the cost of copying received blocks into place.
        hiding = rates.update.at(own)
        carried = exchange_bytes(model, design, batch, processes)
        embedding, early = hiding + rates.lookup.at(own), 0.0
        late = link.seconds(3 * others, carried, pairs=True)
    loss = link.seconds(math.ceil(math.log2(processes)), 16 * others)  # loss and squared norm
    exposed = max(0.0, early - rows * overlap)
    exposed += max(0.0, add_up(model.dense_size) - hiding * overlap)
    return StepCost(rows, embedding, rates.optimizer, loss + late + exposed)
