"""The plots of `perf.scaling.model` and of `bench_scaling.py`."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from perf.harness.plots import label_axes
from perf.scaling.results import MeasuredStep, Phase
from perf.scaling.tables import PARTS, cells_of, parts_of

COLOURS = {"gather": "#0b6e99", "reduce": "#d9730d", "sharded": "#6f4e9c"}
SHADES = ("#0b6e99", "#d9730d", "#e8a87c", "#f2d0b5", "#6f4e9c", "#a8324a", "#bbbbbb")  # of PARTS

Curve = Sequence[tuple[int, float]]  # P, rows per second


def throughput(rows: Sequence[Mapping[str, Mapping[str, Curve]]]) -> Figure:
    """A row of panels for each kind of scaling; each maps a title to the curves by design."""
    columns = max(map(len, rows))
    figure = Figure(figsize=(5.3 * columns, 4.5 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for line, panels in zip(grid, rows, strict=True):
        for axes, (title, curves) in zip(line, panels.items(), strict=True):
            _curves(axes, title, curves)
    grid.flat[0].legend(frameon=False, fontsize=9)
    return figure


def _curves(axes: Axes, title: str, curves: Mapping[str, Curve]) -> None:
    """Throughput of each design against P, and the ideal of perfect scaling."""
    first, alone = next(iter(curves.values()))[0]
    processes = [p for p, _ in next(iter(curves.values()))]
    ideal = [alone * p / first for p in processes]
    axes.plot(processes, ideal, "--", color="#444444", lw=1, label="ideal")
    for name, curve in curves.items():
        axes.plot(*zip(*curve, strict=True), "o-", ms=3, color=COLOURS[name], label=name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(processes, [str(p) for p in processes])
    label_axes(axes, title, "P, processes", "rows/s")
    axes.title.set_fontsize(10)


def parts(steps: Sequence[MeasuredStep], phases: Sequence[Phase]) -> Figure:
    """A bar for each step without overlap: the time of its parts per row of the batch."""
    steps = [step for step in steps if not step.overlap]
    figure = Figure(figsize=(9, 1.5 + 0.3 * len(steps)), layout="constrained")
    axes = figure.subplots()
    found, left = [parts_of(step, phases) for step in steps], [0.0] * len(steps)
    for part, colour in zip(PARTS, SHADES, strict=True):
        widths = [
            max(0.0, 1e3 * ms.get(part, 0.0) / step.batch)
            for step, ms in zip(steps, found, strict=True)
        ]
        axes.barh(range(len(steps)), widths, left=left, color=colour, label=part)
        left = [sum(pair) for pair in zip(left, widths, strict=True)]
    names = [", ".join(filter(None, cells_of(step))) for step in steps]
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.invert_yaxis()
    axes.legend(frameon=False, fontsize=8)
    title = "Where a step goes, without overlap"
    label_axes(axes, title, "microseconds per row of the batch", "")
    axes.title.set_fontsize(10)
    return figure
