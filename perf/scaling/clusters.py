"""Machines, networks and GPUs: rates of a process and its links, as measured or as promised."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from perf.scaling.formulas import GATHER, ITEM, MODELS, REDUCE, Line, Link, Model, Rates, step
from perf.scaling.results import Results

# Line rates; latencies are what such networks usually have, with the software above them.
NETWORKS = (
    Link("10 Gbit/s Ethernet", 30e-6, 10e9 / 8),
    Link("25 Gbit/s Ethernet", 30e-6, 25e9 / 8),
    Link("100 Gbit/s InfiniBand", 2e-6, 100e9 / 8),
)
NVLINK, BETWEEN = 450e9, 400e9 / 8  # bytes/s into a GPU, from its machine and from others
HOPS = 1e-6, 5e-6  # seconds of a message, the same; usual values
TOGETHER = 8  # GPUs of a machine
MEMORIES = (80e9, 141e9)  # of an H100, of an H200


@dataclass(frozen=True)
class Chip:
    """What a data sheet promises: operations and bytes of memory per second."""

    name: str
    flops: float
    bandwidth: float


H100 = Chip("H100 SXM", flops=67e12, bandwidth=3.35e12)  # float32, no tensor cores


@dataclass(frozen=True)
class Cluster:
    """Processes of one kind and what connects them."""

    name: str
    rates: Callable[[Model], Rates]
    link: Callable[[int], Link]

    def seconds(self, model: Model, design: str, batch: int, processes: int) -> float:
        """Of a step."""
        link = self.link(processes)
        return step(model, design, self.rates(model), link, batch, processes).seconds

    def faster_by_reduce(self, model: Model, processes: int) -> float:
        """Rows of a batch above which `reduce` takes less time than `gather`; perhaps inf."""

        def wins(each: int) -> bool:
            taken = [self.seconds(model, d, each * processes, processes) for d in (GATHER, REDUCE)]
            return taken[1] < taken[0]

        low, high = 0, 1
        while not wins(high):
            low, high = high, 2 * high
            if high > 1 << 24:
                return math.inf
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if wins(middle) else (middle, high)
        return high * processes


def bounds(chip: Chip, model: Model) -> Rates:
    """Rates that no program on the chip can beat: the model's arithmetic, its bytes moved once.

    Nothing is counted for starting kernels, for hashing and sorting, or for parts of cache lines.
    """
    config, elements, m = model.config, model.row_elements, model.array_size
    vectors = config.num_tables + 1
    products = model.dense_size + vectors * (vectors - 1) // 2 * config.embedding_dim
    # Written, read in both passes; its gradient written and read.
    kept = 5 * (sum(config.bottom_widths) + sum(config.top_widths) + elements)
    moved = 2 if model.optimizer == "sgd" else 4  # of an element and its sum, read and written

    def move(count: float) -> float:
        return count * ITEM / chip.bandwidth

    return Rates(
        rows=Line(move(4 * model.dense_size), max(6 * products / chip.flops, move(kept))),
        lookup=Line(0.0, move(2 * elements)),
        update=Line(0.0, move((1 + moved) * elements)),
        gradient=Line(move(m), move(3 * elements)),
        apply=Line(move(m), move(moved)),
        add=Line(0.0, move(1.0)),
        optimizer=move((1 + moved) * model.dense_size),
    )


def gpu_link(processes: int) -> Link:
    """NVLink within a machine, a network card for each GPU between machines.

    What all get enters a machine once, a part by each card, and goes on by NVLink, as in NCCL's
    rings. What is for one GPU comes by its own card.
    """
    if processes <= TOGETHER:
        return Link("NVLink", HOPS[0], NVLINK)
    outside = (processes - TOGETHER) / (processes - 1)
    hop = (HOPS[0] * (TOGETHER - 1) + HOPS[1]) / TOGETHER
    pairs = min(NVLINK, BETWEEN / outside)
    return Link("NVLink and 400 Gbit/s", hop, min(NVLINK, TOGETHER * BETWEEN), pairs)


GPUS = Cluster(f"{H100.name}, by data sheet", lambda model: bounds(H100, model), gpu_link)


def measured(results: Results, model: Model, ranks: int, threads: int) -> Rates:
    """Rates of a process with so many threads, as `bench_scaling.py` found them."""
    ours = (model.name, ranks, threads)
    found = [p for p in results.phases if (p.shape, p.ranks, p.threads) == ours]

    def line(name: str, count: Callable[[int], float] = float) -> Line:
        return Line.fit((count(p.count), p.ms / 1e3) for p in found if p.name == name)

    return Rates(
        rows=line("forward and backward"),
        lookup=line("lookup"),
        update=line("update"),
        gradient=line("dense gradient"),
        apply=line("apply", model.touched),
        add=line("adding up"),
        optimizer=line("dense optimizer").at(model.dense_size),
    )


def measured_link(results: Results, ranks: int) -> Link:
    """What connects the measured processes."""
    found = [t for t in results.transfers if (t.ranks, t.name) == (ranks, "gather")]
    line = Line.fit((t.bytes, t.ms / 1e3) for t in found)
    latency = line.fixed or min(t.ms / 1e3 for t in found)
    bandwidth = 1 / line.each if line.each else math.inf
    return Link(f"{ranks} processes of this machine", latency / (ranks - 1), bandwidth)


def machines(results: Results) -> list[Cluster]:
    """Machines like the measured one, a process on each with all of its cores, per network."""
    alone = [phase for phase in results.phases if phase.ranks == 1]
    threads = max((phase.threads for phase in alone), default=0)
    rates = {
        name: measured(results, MODELS[name], 1, threads)
        for name in dict.fromkeys(phase.shape for phase in alone)
    }
    return [
        Cluster(f"measured machines, {link.name}", lambda m: rates[m.name], lambda _, at=link: at)
        for link in NETWORKS
    ]
