"""Machines, networks and GPUs: rates and links, measured or from data sheets."""

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass

from perf.scaling.formulas import (
    GATHER,
    ITEM,
    MODELS,
    REDUCE,
    LinearCost,
    Link,
    ProcessRates,
    ScaledModel,
    step,
)
from perf.scaling.results import Results

# Line rates; latencies are usual for such networks, software included.
NETWORKS = (
    Link("10 Gbit/s Ethernet", 30e-6, 10e9 / 8),
    Link("25 Gbit/s Ethernet", 30e-6, 25e9 / 8),
    Link("100 Gbit/s InfiniBand", 2e-6, 100e9 / 8),
)
# An H100 SXM by its data sheet: float32 without tensor cores, bytes of memory per second.
FLOPS, MEMORY_BANDWIDTH = 67e12, 3.35e12
NVLINK, BETWEEN = 450e9, 400e9 / 8  # bytes/s into a GPU, from its machine and from other machines
NVLINK_LATENCY, NETWORK_LATENCY = 1e-6, 5e-6  # seconds of a message; usual values
TOGETHER = 8  # GPUs of a machine
MOST_ROWS = 1 << 24  # of a process


@dataclass(frozen=True)
class Cluster:
    """Processes of one kind and their connection."""

    name: str
    rates: Callable[[ScaledModel], ProcessRates]
    link: Callable[[int], Link]

    def seconds(self, model: ScaledModel, design: str, batch: int, processes: int) -> float:
        """Seconds of a step."""
        link = self.link(processes)
        return step(model, design, self.rates(model), link, batch, processes).seconds

    def faster_by_reduce(self, model: ScaledModel, processes: int) -> float:
        """Rows of a batch above which `reduce` is faster than `gather`; perhaps inf."""

        def wins(each: int) -> bool:
            gather, reduce = (
                self.seconds(model, d, each * processes, processes) for d in (GATHER, REDUCE)
            )
            return reduce < gather

        first = bisect_left(range(MOST_ROWS), True, lo=1, key=wins)
        return first * processes if first < MOST_ROWS else math.inf


def gpu_rates(model: ScaledModel) -> ProcessRates:
    """Rates that no program on the GPU can beat: the model's arithmetic, its bytes moved once.

    They leave out launches, hashing, sorting and partial cache lines.
    """
    config, elements, m = model.config, model.row_elements, model.array_size
    vectors = config.num_tables + 1
    products = model.dense_size + vectors * (vectors - 1) // 2 * config.embedding_dim
    # Written, read in both passes; the gradient is written and read.
    kept = 5 * (sum(config.bottom_widths) + sum(config.top_widths) + elements)
    moved = 2 if model.optimizer == "sgd" else 4  # of an element and its sum, read and written

    def move(count: float) -> float:
        return count * ITEM / MEMORY_BANDWIDTH

    return ProcessRates(
        rows=LinearCost(move(4 * model.dense_size), max(6 * products / FLOPS, move(kept))),
        lookup=LinearCost(0.0, move(2 * elements)),
        update=LinearCost(0.0, move((1 + moved) * elements)),
        gradient=LinearCost(move(m), move(3 * elements)),
        apply=LinearCost(move(m), move(moved)),
        add=LinearCost(0.0, move(1.0)),
        optimizer=move((1 + moved) * model.dense_size),
    )


def gpu_link(processes: int) -> Link:
    """NVLink within a machine, and a network card for each GPU between machines.

    Data for all GPUs enters a machine once, one part by each card, and continues by NVLink, as in
    NCCL's rings. Data for one GPU comes by its own card.
    """
    if processes <= TOGETHER:
        return Link("NVLink", NVLINK_LATENCY, NVLINK)
    outside = (processes - TOGETHER) / (processes - 1)
    hop = (NVLINK_LATENCY * (TOGETHER - 1) + NETWORK_LATENCY) / TOGETHER
    pairs = min(NVLINK, BETWEEN / outside)
    return Link("NVLink and 400 Gbit/s", hop, min(NVLINK, TOGETHER * BETWEEN), pairs)


GPUS = Cluster("H100 SXM, by data sheet", gpu_rates, gpu_link)


def measured_rates(results: Results, model: ScaledModel, ranks: int, threads: int) -> ProcessRates:
    """Rates of a process with `threads` threads, as `bench_scaling.py` measured them."""
    ours = (model.name, ranks, threads)
    found = [p for p in results.phases if (p.shape, p.ranks, p.threads) == ours]

    def line(name: str, count: Callable[[int], float] = float) -> LinearCost:
        return LinearCost.fit((count(p.count), p.ms / 1e3) for p in found if p.name == name)

    return ProcessRates(
        rows=line("forward and backward"),
        lookup=line("lookup"),
        update=line("update"),
        gradient=line("dense gradient"),
        apply=line("apply", model.touched),
        add=line("adding up"),
        optimizer=line("dense optimizer").at(model.dense_size),
    )


def measured_link(results: Results, ranks: int) -> Link:
    """The connection of the measured processes."""
    found = [t for t in results.transfers if (t.ranks, t.name) == (ranks, "gather")]
    line = LinearCost.fit((t.bytes, t.ms / 1e3) for t in found)
    latency = line.fixed or min(t.ms / 1e3 for t in found)
    bandwidth = 1 / line.each if line.each else math.inf
    return Link(f"{ranks} processes of this machine", latency / (ranks - 1), bandwidth)


def machines(results: Results) -> list[Cluster]:
    """Machines like the measured one with a process on all cores of each, for each network."""
    alone = [phase for phase in results.phases if phase.ranks == 1]
    threads = max((phase.threads for phase in alone), default=0)
    rates = {
        name: measured_rates(results, MODELS[name], 1, threads)
        for name in dict.fromkeys(phase.shape for phase in alone)
    }

    def on(network: Link) -> Cluster:
        name = f"measured machines, {network.name}"
        return Cluster(name, lambda model: rates[model.name], lambda processes: network)

    return [on(network) for network in NETWORKS]
