"""Tables of `bench_scaling.py`: steps, their parts, transfers."""

from collections.abc import Sequence

from perf.scaling.formulas import MODELS
from perf.scaling.results import MeasuredStep, Phase, Transfer
from robe_numba.formatting import markdown_table

HEAD = ("shape", "B", "ranks x threads", "exchange")
PARTS = (
    *("forward and backward", "update", "dense gradient", "apply", "dense optimizer"),
    *("transfers", "rest"),
)


def cells_of(step: MeasuredStep) -> list[str]:
    """The first cells of a line."""
    return [step.shape, f"{step.batch:,}", f"{step.ranks} x {step.threads}", step.exchange]


def steps_table(steps: Sequence[MeasuredStep]) -> str:
    """A line for each setting, with and without overlap."""
    of = {(s.shape, s.ranks, s.threads, s.batch, s.exchange, s.overlap): s for s in steps}
    threads = min(s.threads for s in steps)  # of each rank

    def ratio(step: MeasuredStep, batch: int, form: str) -> str:
        alone = of.get((step.shape, 1, threads, batch, "", False))
        return format(alone.ms / step.ms, form) if alone else ""

    lines = []
    for step in (s for s in steps if s.overlap or s.ranks == 1):
        cells = cells_of(step)
        cells[-1] += " (auto)" * step.auto
        cells += [f"{step.ms:.2f}", f"{step.rows_per_second / 1e3:,.2f}"]
        cells += [ratio(step, step.batch, ".2f")]
        if step.ranks > 1:
            off = of[step.shape, step.ranks, step.threads, step.batch, step.exchange, False]
            cells += [ratio(step, step.batch // step.ranks, ".0%"), f"{step.bytes / 1e6:,.3f}"]
            cells += [f"{step.transfers_ms:.2f}", f"{step.waited_ms:.2f}", f"{step.hidden:.0%}"]
            cells += [f"{off.ms:.2f}", f"{off.waited_ms:.2f}", f"{step.ms / off.ms - 1:+.1%}"]
        lines.append(cells + [""] * (15 - len(cells)))
    header = [*HEAD, "ms", "1000 rows/s", "speed-up", "weak efficiency", "MB to a rank"]
    header += ["transfers, ms", "waited, ms", "hidden"]
    return markdown_table([*header, "no overlap, ms", "waited, ms", "overlap changes"], lines)


def parts_of(step: MeasuredStep, phases: Sequence[Phase]) -> dict[str, float]:
    """Milliseconds of the parts of a step without overlap; "rest" is everything else."""
    place = step.shape, step.ranks, step.threads
    ms = {(p.name, p.count): p.ms for p in phases if (p.shape, p.ranks, p.threads) == place}
    own = step.batch // step.ranks
    wanted = {"forward and backward": own}
    if step.exchange == "reduce":
        wanted |= {"dense gradient": own, "apply": step.batch}
    else:
        wanted |= {"update": step.batch}
    wanted["dense optimizer"] = MODELS[step.shape].dense_size
    parts = {name: ms[name, count] for name, count in wanted.items()}
    parts["transfers"] = step.waited_ms
    return parts | {"rest": step.ms - sum(parts.values())}


def parts_table(steps: Sequence[MeasuredStep], phases: Sequence[Phase]) -> str:
    """A line for each step without overlap, with the time of its parts."""
    lines = []
    for step in (s for s in steps if not s.overlap):
        parts = parts_of(step, phases)
        cells = [f"{parts[name]:.2f}" if name in parts else "" for name in PARTS]
        lines.append([*cells_of(step), *cells, f"{step.ms:.2f}"])
    return markdown_table([*HEAD, *PARTS, "no overlap, ms"], lines)


def transfers_table(transfers: Sequence[Transfer]) -> str:
    """MPI alone."""
    lines = [
        [t.ranks, t.name, f"{t.bytes:,}", f"{t.ms:.4f}", f"{t.bytes / t.ms / 1e6:.2f}"]
        for t in transfers
    ]
    return markdown_table(["ranks", "transfer", "bytes to a rank", "ms", "GB/s"], lines)
