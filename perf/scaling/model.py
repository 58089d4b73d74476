"""Step time of training in P processes, calculated from measured or promised rates.

    python -m perf.scaling.model                        bytes, memory, and GPUs by their data sheets
    python -m perf.scaling.model --json scaling.json    also machines like the measured one
    python -m perf.scaling.model --plot docs/images/scaling.png

The JSON is that of `bench_scaling.py`; `formulas.py` says what is counted, `clusters.py` with which
rates.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

import msgspec

from perf.scaling.clusters import GPUS, NETWORKS, Cluster, machines, measured_link, measured_rates
from perf.scaling.formulas import (
    DESIGNS,
    GATHER,
    ITEM,
    KAGGLE,
    MLPERF,
    MODELS,
    REDUCE,
    ScaledModel,
    StepCost,
    copies,
    crossover,
    exchange_bytes,
    step,
    sum_bytes,
)
from perf.scaling.results import Results
from perf.scaling.tables import HEAD, cells_of
from robe_numba.formatting import markdown_table

PROCESSES = (1, 2, 4, 8, 16, 32, 64)
WEAK, STRONG = 2048, (2048, 32_768, 65_536)  # rows of each process; of all together
MEMORIES = (80e9, 141e9)  # bytes of an H100, of an H200


def bytes_table(models: Sequence[ScaledModel]) -> str:
    """Bytes of a step by design."""
    lines = [
        [model.name, f"{batch:,}", processes]
        + [f"{exchange_bytes(model, d, batch, processes) / 1e6:,.2f}" for d in DESIGNS]
        + [f"{sum_bytes(model.dense_size, processes) / 1e6:,.2f}"]
        for model, batch, processes in product(models, STRONG, (2, 8, 64))
    ]
    return markdown_table(
        ["MB to each process", "B", "P", *DESIGNS, "dense part, beside each"], lines
    )


def faster_table(models: Sequence[ScaledModel], clusters: Sequence[Cluster]) -> str:
    """Batch sizes above which `reduce` is faster."""
    lines = []
    for model, cluster in product(models, clusters):
        rows = [cluster.faster_by_reduce(model, p) for p in PROCESSES[1:]]
        cells = ["never" if math.isinf(r) else f"{r:,}" for r in rows]
        lines.append([model.name, cluster.name, f"{crossover(model):,.0f}", *cells])
    header = ["reduce is faster above B =", "on", "fewer bytes above"]
    return markdown_table([*header, *(f"P = {p}" for p in PROCESSES[1:])], lines)


def memory_table() -> str:
    """The largest array of which each GPU can hold a replica."""
    lines, optimizers = [], (("sgd", 1), ("adagrad", 1), ("adagrad", 128))
    for design, (optimizer, block) in product((GATHER, REDUCE), optimizers):
        name = optimizer + (f", a sum for {block}" if block > 1 else "")
        count = copies(design, optimizer, block)
        cells = []
        for array in (memory / count / 1e9 for memory in MEMORIES):
            cells += [f"{array / ITEM:.1f}", f"{array:.0f} GB", f"{array:.0f} TB"]
        lines.append([design, name, f"{count:.2f}", *cells])
    header = ["exchange", "optimizer", "copies of m"]
    for memory in MEMORIES:
        header += [f"{memory / 1e9:.0f} GB: m, 10^9", "array", "tables at 1000x"]
    return markdown_table(header, lines)


def cases() -> list[tuple[str, Callable[[int], int]]]:
    """Kinds of scaling: a name, and the rows of a batch as a function of P."""

    def fixed(rows: int) -> tuple[str, Callable[[int], int]]:
        return f"{rows:,} rows in all", lambda processes: rows

    return [(f"{WEAK:,} rows each", lambda processes: WEAK * processes), *map(fixed, STRONG)]


def curve(
    cluster: Cluster, model: ScaledModel, design: str, batch_of: Callable[[int], int]
) -> list[tuple[int, float]]:
    """Rows per second against P."""
    return [(p, batch_of(p) / cluster.seconds(model, design, batch_of(p), p)) for p in PROCESSES]


def throughput_table(cluster: Cluster, models: Sequence[ScaledModel]) -> str:
    """Rows per second, and efficiency against one process."""
    lines = []
    for model, (name, batch_of), design in product(models, cases(), DESIGNS):
        speeds = curve(cluster, model, design, batch_of)
        alone = speeds[0][1]
        cells = [f"{speed / 1e3:,.0f} ({speed / alone / p:.0%})" for p, speed in speeds]
        lines.append([model.name, name, design, *cells])
    header = ["1000 rows/s (efficiency)", "batch", "design", *(f"P = {p}" for p in PROCESSES)]
    return markdown_table(header, lines)


def limits_table(models: Sequence[ScaledModel], clusters: Sequence[Cluster]) -> str:
    """Limits that no number of processes improves, latencies aside."""
    lines = []
    for model, cluster in product(models, clusters):
        rates, link = cluster.rates(model), cluster.link(PROCESSES[-1])
        row = model.row_bytes / link.bandwidth
        by_gather = rates.update.each + row
        array = 2 * model.array_size * ITEM / link.bandwidth + rates.add.at(model.array_size)
        applied = rates.apply.at(model.touched(STRONG[-1]))
        by_reduce = rates.gradient.fixed + applied + array
        each = rates.rows.each + rates.gradient.each
        cells = [f"{1e-3 / by_gather:,.0f}", f"{row / by_gather:.0%}"]
        cells += [f"{rates.rows.each / by_gather:,.1f}", f"{1e3 * by_reduce:,.2f}"]
        cells += [f"{array / by_reduce:.0%}", f"{by_reduce / each:,.0f}"]
        lines.append([model.name, cluster.name, *cells])
    header = ["model", "on", "gather: 1000 rows/s at most", "of which the network"]
    header += ["half of it at P =", "reduce: ms per step at least", "of which summing"]
    return markdown_table([*header, "as long as this many rows"], lines)


def deviation_table(results: Results) -> str:
    """The model against the steps that were measured."""
    lines = []
    for found in results.steps:
        model, ranks = MODELS[found.shape], found.ranks
        rates = measured_rates(results, model, ranks, found.threads)
        link = measured_link(results, ranks) if ranks > 1 else NETWORKS[0]
        design = found.exchange or GATHER
        cost = step(model, design, rates, link, found.batch, ranks, found.overlap)
        overlap = "yes" if found.overlap else "no" if ranks > 1 else ""
        times = [*(1e3 * part for part in (*cost, cost.seconds)), found.ms]
        cells = [*cells_of(found), overlap, *(f"{ms:.2f}" for ms in times)]
        lines.append([*cells, f"{1e3 * cost.seconds / found.ms - 1:+.0%}"])
    header = [*HEAD, "overlap", *StepCost._fields, "model, ms", "measured, ms", "difference"]
    return markdown_table(header, lines)


def draw(models: Sequence[ScaledModel], clusters: Sequence[Cluster], path: Path) -> None:
    """Draw throughput: weak scaling above, the largest batch below."""
    from perf.harness.plots import save  # imports matplotlib
    from perf.scaling import plots

    shown = [*clusters[1:2], GPUS]  # of several networks the second
    rows = [
        {
            f"{model.name}, {cluster.name}\n{case}": {
                design: curve(cluster, model, design, batch_of) for design in DESIGNS
            }
            for cluster, model in product(shown, models)
        }
        for case, batch_of in (cases()[0], cases()[-1])
    ]
    save(plots.throughput(rows), path)


def main() -> None:
    """Print all tables, and draw the plot if asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, help="the results of bench_scaling.py")
    parser.add_argument("--plot", type=Path, help="draw throughput there (needs matplotlib)")
    options = parser.parse_args()
    models, clusters = [KAGGLE, MLPERF], [GPUS]
    if options.json:
        results = msgspec.json.decode(options.json.read_bytes(), type=Results)
        print(f"Measured on {results.about}\n\n{deviation_table(results)}\n")
        found = {phase.shape for phase in results.phases if phase.ranks == 1}
        if not found.isdisjoint(model.name for model in models):
            models = [model for model in models if model.name in found]
            clusters = [*machines(results), GPUS]
    print(f"{bytes_table(models)}\n\n{memory_table()}\n")
    print(f"{faster_table(models, clusters)}\n\n{limits_table(models, clusters)}")
    for cluster in clusters:
        print(f"\n{cluster.name}:\n\n{throughput_table(cluster, models)}")
    if options.plot:
        draw(models, clusters, options.plot)


if __name__ == "__main__":
    main()
