"""The pictures of `scaling_model.py` and of `bench_scaling.py`."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from perf.scaling.tables import PARTS

COLOURS = {"gather": "#0b6e99", "reduce": "#d9730d", "sharded": "#6f4e9c"}
SHADES = ("#0b6e99", "#d9730d", "#e8a87c", "#f2d0b5", "#6f4e9c", "#a8324a", "#bbbbbb")  # of PARTS

Curve = Sequence[tuple[int, float]]  # P, rows per second


def throughput(rows: Sequence[Mapping[str, Mapping[str, Curve]]]) -> Figure:
    """A row of panels for each kind of scaling: by title, then by design, its curve."""
    columns = max(map(len, rows))
    figure = Figure(figsize=(5.3 * columns, 4.5 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for line, panels in zip(grid, rows, strict=True):
        for axes, (title, curves) in zip(line, panels.items(), strict=True):
            _curves(axes, title, curves)
    grid.flat[0].legend(frameon=False, fontsize=9)
    return figure


def _curves(axes: Axes, title: str, curves: Mapping[str, Curve]) -> None:
    """Throughput of each design over P, and that of P processes which share without cost."""
    first, alone = next(iter(curves.values()))[0]
    processes = [p for p, _ in next(iter(curves.values()))]
    ideal = [alone * p / first for p in processes]
    axes.plot(processes, ideal, "--", color="#444444", lw=1, label="ideal")
    for name, curve in curves.items():
        axes.plot(*zip(*curve, strict=True), "o-", ms=3, color=COLOURS[name], label=name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(processes, processes)
    _tidy(axes, title, "P, processes", "rows/s")


def parts(steps: Mapping[str, Mapping[str, float]]) -> Figure:
    """A bar for each step, of what its parts take for a row of the batch, in microseconds."""
    figure = Figure(figsize=(9, 1.5 + 0.3 * len(steps)), layout="constrained")
    axes = figure.subplots()
    names, left = list(steps), [0.0] * len(steps)
    for part, colour in zip(PARTS, SHADES, strict=True):
        widths = [max(0.0, step.get(part, 0.0)) for step in steps.values()]
        axes.barh(range(len(names)), widths, left=left, color=colour, label=part)
        left = [sum(pair) for pair in zip(left, widths, strict=True)]
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.invert_yaxis()
    axes.legend(frameon=False, fontsize=8)
    _tidy(axes, "Where a step goes, without overlap", "microseconds per row of the batch", "")
    return figure


def _tidy(axes: Axes, title: str, xlabel: str, ylabel: str) -> None:
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
