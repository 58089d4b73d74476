"""Tables of `bench_scaling.py`: steps, their parts, transfers."""

from collections.abc import Iterable, Sequence

from perf.scaling.formulas import MODELS
from perf.scaling.results import Phase, Step, Transfer

HEAD = ("shape", "B", "ranks x threads", "exchange")
PARTS = (
    *("forward and backward", "update", "dense gradient", "apply", "dense optimizer"),
    *("transfers", "rest"),
)


def markdown(head: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    """A table."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)


def cells_of(step: Step) -> list[str]:
    """What a line begins with."""
    return [step.shape, f"{step.batch:,}", f"{step.ranks} x {step.threads}", step.exchange]


def steps_table(steps: Sequence[Step]) -> str:
    """A line for each setting, with and without overlap."""
    of = {(s.shape, s.ranks, s.threads, s.batch, s.exchange, s.overlap): s for s in steps}
    threads = min(s.threads for s in steps)  # of each rank

    def ratio(step: Step, batch: int, form: str) -> str:
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
    head = [*HEAD, "ms", "1000 rows/s", "speed-up", "weak efficiency", "MB to a rank"]
    head += ["transfers, ms", "waited, ms", "hidden"]
    head += ["no overlap, ms", "waited, ms", "overlap changes"]
    return markdown(head, lines)


def parts_of(step: Step, phases: Sequence[Phase]) -> dict[str, float]:
    """Milliseconds of the parts of a step in which nothing overlaps; "rest" is all else."""
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


def parts_table(steps: Sequence[Step], phases: Sequence[Phase]) -> str:
    """Where a step goes."""
    lines = []
    for step in (s for s in steps if not s.overlap):
        parts = parts_of(step, phases)
        cells = [f"{parts[name]:.2f}" if name in parts else "" for name in PARTS]
        lines.append([*cells_of(step), *cells, f"{step.ms:.2f}"])
    return markdown([*HEAD, *PARTS, "no overlap, ms"], lines)


def bars(steps: Sequence[Step], phases: Sequence[Phase]) -> dict[str, dict[str, float]]:
    """The same as microseconds for a row of the batch, for a picture."""
    return {
        ", ".join(filter(None, cells_of(step))): {
            name: 1e3 * ms / step.batch for name, ms in parts_of(step, phases).items()
        }
        for step in steps
        if not step.overlap
    }


def transfers_table(transfers: Sequence[Transfer]) -> str:
    """MPI alone."""
    lines = [
        [t.ranks, t.name, f"{t.bytes:,}", f"{t.ms:.4f}", f"{t.bytes / t.ms / 1e6:.2f}"]
        for t in transfers
    ]
    return markdown(["ranks", "transfer", "bytes to a rank", "ms", "GB/s"], lines)
