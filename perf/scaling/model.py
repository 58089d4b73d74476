"""Step time of training in P processes, worked out from rates that were measured or are promised.

    python perf/scaling/model.py                        bytes, memory, and GPUs by their data sheets
    python perf/scaling/model.py --json scaling.json    also machines like the measured one
    python perf/scaling/model.py --plot docs/images/scaling.png

The JSON is that of `bench_scaling.py`. `scaling_formulas.py` says what is counted and what is not,
`scaling_clusters.py` which rates are taken.
"""

import argparse
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

from perf.scaling.clusters import (
    GPUS,
    MEMORIES,
    NETWORKS,
    Cluster,
    machines,
    measured,
    measured_link,
)
from perf.scaling.formulas import (
    DESIGNS,
    GATHER,
    ITEM,
    KAGGLE,
    MLPERF,
    MODELS,
    REDUCE,
    SHARDED,
    Model,
    Step,
    copies,
    crossover,
    exchange_bytes,
    step,
    sum_bytes,
)
from perf.scaling.results import Results
from perf.scaling.tables import HEAD, cells_of, markdown

PROCESSES = (1, 2, 4, 8, 16, 32, 64)
WEAK, STRONG = 2048, (2048, 32_768, 65_536)  # rows of each process; of all together


def bytes_table(models: Sequence[Model]) -> str:
    """Bytes of a step by design."""
    lines = [
        [model.name, f"{batch:,}", processes]
        + [f"{exchange_bytes(model, d, batch, processes) / 1e6:,.2f}" for d in DESIGNS]
        + [f"{sum_bytes(model.dense_size, processes) / 1e6:,.2f}"]
        for model in models
        for batch in STRONG
        for processes in (2, 8, 64)
    ]
    head = ["MB to each process", "B", "P", *DESIGNS, "dense part, beside each"]
    return markdown(head, lines)


def crossover_table(models: Sequence[Model]) -> str:
    """Where fewer bytes come by `reduce`, over m."""
    sizes = (540_000, 2_500_000, 25_000_000, 250_000_000, 2_500_000_000)
    lines = [
        [f"T = {m.config.num_tables}, d = {m.config.embedding_dim}"]
        + [f"{crossover(replace(m, array_size=size)):,.0f}" for size in sizes]
        for m in models
    ]
    return markdown(["reduce brings fewer bytes above B =", *(f"m = {s:,}" for s in sizes)], lines)


def faster_table(models: Sequence[Model], clusters: Sequence[Cluster]) -> str:
    """Where `reduce` is the faster one."""
    lines = []
    for model, cluster in product(models, clusters):
        rows = [cluster.faster_by_reduce(model, p) for p in PROCESSES[1:]]
        cells = ["never" if math.isinf(r) else f"{r:,}" for r in rows]
        lines.append([model.name, cluster.name, f"{crossover(model):,.0f}", *cells])
    head = ["reduce is faster above B =", "on", "fewer bytes above"]
    return markdown([*head, *(f"P = {p}" for p in PROCESSES[1:])], lines)


def memory_table() -> str:
    """The largest array that stands whole in each GPU."""
    lines, optimizers = [], (("sgd", 1), ("adagrad", 1), ("adagrad", 128))
    for design, (optimizer, block) in product((GATHER, REDUCE), optimizers):
        name = optimizer + (f", a sum for {block}" if block > 1 else "")
        count = copies(design, optimizer, block)
        cells = []
        for memory in MEMORIES:
            array = memory / count
            cells += [f"{array / ITEM / 1e9:.1f}", f"{array / 1e9:.0f} GB", f"{array / 1e9:.0f} TB"]
        lines.append([design, name, f"{count:.2f}", *cells])
    head = ["exchange", "optimizer", "copies of m"]
    for memory in MEMORIES:
        head += [f"{memory / 1e9:.0f} GB: m, 10^9", "array", "tables at 1000x"]
    return markdown(head, lines)


def sharding_table(model: Model, batch: int, processes: int) -> str:
    """Arrays that stand whole in few GPUs or in none, and what a step would bring to each GPU."""
    lines = []
    for size in (40e9, 100e9, 400e9, 1000e9):
        large = replace(model, array_size=int(size) // ITEM)
        gpus = [math.ceil(size * copies(SHARDED, o) / MEMORIES[0]) for o in ("sgd", "adagrad")]
        cells = [f"{size / 1e9:,.0f} GB", f"{size / 1e9:,.0f} TB", *map(str, gpus)]
        cells += [f"{exchange_bytes(large, d, batch, processes) / 1e6:,.0f}" for d in DESIGNS]
        for design in DESIGNS:
            held = size * copies(design, "sgd") / (processes if design == SHARDED else 1)
            seconds = GPUS.seconds(large, design, batch, processes)
            cells.append(f"{1e3 * seconds:,.2f}" if held <= MEMORIES[0] else "no room")
        lines.append(cells)
    head = ["array", "tables at 1000x", "80 GB GPUs, sgd", "adagrad"]
    head += [f"{d}, {unit}" for unit in ("MB", "ms") for d in DESIGNS]
    return f"{model.name}, B = {batch:,}, P = {processes}:\n\n{markdown(head, lines)}"


def cases() -> list[tuple[str, Callable[[int], int]]]:
    """Kinds of scaling: name, and rows of a batch for so many processes."""
    weak = [(f"{WEAK:,} rows each", lambda processes: WEAK * processes)]
    return weak + [(f"{rows:,} rows in all", lambda _, rows=rows: rows) for rows in STRONG]


def curve(
    cluster: Cluster, model: Model, design: str, batch_of: Callable[[int], int]
) -> list[tuple[int, float]]:
    """Rows per second over P."""
    return [(p, batch_of(p) / cluster.seconds(model, design, batch_of(p), p)) for p in PROCESSES]


def throughput_table(cluster: Cluster, models: Sequence[Model]) -> str:
    """Rows per second and efficiency against one process."""
    lines = []
    for model, (name, batch_of) in product(models, cases()):
        alone = curve(cluster, model, GATHER, batch_of)[0][1]
        for design in DESIGNS:
            curved = curve(cluster, model, design, batch_of)
            cells = [f"{speed / 1e3:,.0f} ({speed / alone / p:.0%})" for p, speed in curved]
            lines.append([model.name, name, design, *cells])
    head = ["1000 rows/s (efficiency)", "batch", "design", *(f"P = {p}" for p in PROCESSES)]
    return markdown(head, lines)


def panels(
    models: Sequence[Model], clusters: Sequence[Cluster]
) -> list[dict[str, dict[str, list[tuple[int, float]]]]]:
    """What the picture shows: weak scaling, then that of the largest batch."""
    shown = [*clusters[1:2], GPUS]  # of several networks the second
    pairs = [(model, cluster) for cluster in shown for model in models]
    return [
        {
            f"{m.name}, {c.name}\n{case}": {d: curve(c, m, d, batch_of) for d in DESIGNS}
            for m, c in pairs
        }
        for case, batch_of in (cases()[0], cases()[-1])
    ]


def limits_table(models: Sequence[Model], clusters: Sequence[Cluster]) -> str:
    """What no number of processes improves, latencies aside."""
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
    head = ["model", "on", "gather: 1000 rows/s at most", "of which the network"]
    head += ["half of it at P =", "reduce: ms per step at least", "of which summing"]
    head += ["as long as so many rows"]
    return markdown(head, lines)


def deviations(results: Results) -> str:
    """What the model says of the steps that were measured."""
    lines = []
    for found in results.steps:
        model, ranks = MODELS[found.shape], found.ranks
        rates = measured(results, model, ranks, found.threads)
        link = measured_link(results, ranks) if ranks > 1 else NETWORKS[0]
        design = found.exchange or GATHER
        said = step(model, design, rates, link, found.batch, ranks, found.overlap)
        overlap = "yes" if found.overlap else "no" if ranks > 1 else ""
        times = [*(1e3 * part for part in (*said, said.seconds)), found.ms]
        cells = [*cells_of(found), overlap, *(f"{ms:.2f}" for ms in times)]
        lines.append([*cells, f"{1e3 * said.seconds / found.ms - 1:+.0%}"])
    head = [*HEAD, "overlap", *Step._fields, "model, ms", "measured, ms", "difference"]
    return markdown(head, lines)


def main() -> None:
    """Print all tables, and draw the picture if asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, help="what bench_scaling.py measured")
    parser.add_argument("--plot", type=Path, help="draw throughput there (needs matplotlib)")
    options = parser.parse_args()
    models, clusters = [KAGGLE, MLPERF], [GPUS]
    if options.json:
        results = Results.read(json.loads(options.json.read_text()))
        print(f"Measured on {results.about}\n\n{deviations(results)}\n")
        found = {phase.shape for phase in results.phases if phase.ranks == 1}
        if not found.isdisjoint(model.name for model in models):
            models = [model for model in models if model.name in found]
            clusters = [*machines(results), GPUS]
    print(f"{bytes_table(models)}\n\n{crossover_table(models)}\n\n{memory_table()}\n")
    print(f"{sharding_table(MLPERF, STRONG[-1], PROCESSES[-1])}\n")
    print(f"{faster_table(models, clusters)}\n\n{limits_table(models, clusters)}")
    for cluster in clusters:
        print(f"\n{cluster.name}:\n\n{throughput_table(cluster, models)}")
    if options.plot:
        from perf.harness.plots import save  # needs matplotlib
        from perf.scaling import plots

        save(plots.throughput(panels(models, clusters)), options.plot)


if __name__ == "__main__":
    main()
