"""Plots of benchmark results."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from perf.harness.markdown import fastest_floor, label, same_race
from perf.harness.race import Row

COLOURS = {
    "robe": "#0b6e99",
    "torch": "#d9730d",
    "torch, huge pages": "#e8a87c",
    "FBGEMM": "#6f4e9c",
    "published formula": "#a8324a",
    "NumPy": "#777777",
    "CuPy indexing": "#777777",
    "full tables": "#d9730d",
    "floor": "#2e7d32",
}
SWEEPS = {  # name of a sweep: title, label of its axis, base of the axis's logarithm
    "block size": ("Speed against Z", "Z, elements", 2),
    "batch": ("Speed against batch", "batch, samples", 2),
    "array size": ("Speed against array size", "array, bytes", 10),
    "threads": ("Speed against threads", "threads", None),
    "inference against full tables": ("Inference, both ours", "batch, samples", 2),
    "inference against torch": ("Inference", "batch, samples", 2),
}

Points = Sequence[tuple[float | None, int, float | None]]


def save(figure: Figure, path: Path) -> None:
    """Write a plot in the format of the path's suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def label_axes(axes: Axes, title: str, xlabel: str, ylabel: str) -> None:
    """Title, labels, a light grid and no frame."""
    axes.set_title(title)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def times(rows: Sequence[Row]) -> Figure:
    """Every time of one benchmark, a line per contender of ours."""
    if any(row.x is not None for row in rows):
        return overview(rows, {})
    ours = [row for row in rows if row.role == "ours"]
    figure = Figure(figsize=(9, 1.5 + 0.3 * len(ours)), layout="constrained")
    _times(figure.subplots(), rows)
    return figure


def overview(rows: Sequence[Row], caches: dict[str, int]) -> Figure:
    """Times against peers on the left, the sweeps on the right."""
    compared = [row for row in rows if row.x is None]
    height = max(7, 1.5 + 0.24 * sum(row.role == "ours" for row in compared))
    figure = Figure(figsize=(16, height), layout="constrained")
    swept = [name for name in SWEEPS if any(row.work == name for row in rows)]
    grid = figure.add_gridspec(max(1, len(swept)), 2, width_ratios=(3, 2))
    _times(figure.add_subplot(grid[:, 0]), compared)
    for position, name in enumerate(swept):
        panel = figure.add_subplot(grid[position, 1])
        _sweep(panel, name, [row for row in rows if row.x is not None and row.work == name])
        if name == "array size":
            for level in ("L2", "L3"):
                _cache(panel, level, caches.get(level))
        if position == 0 and panel.lines:
            panel.legend(frameon=False, fontsize=8)
    return figure


def _times(axes: Axes, rows: Sequence[Row]) -> None:
    """A line per contender of ours: its time, its peers' and the floor's."""
    ours = [row for row in rows if row.role == "ours"]
    named: set[str] = set()
    for height, row in enumerate(ours):
        others = same_race(row, rows)
        points = [(other.contender, "o", other.ms) for other in others if other.role == "peer"]
        points += [("floor", "|", fastest_floor(others)), ("robe", "D", row.ms)]
        for name, marker, ms in points:
            if ms is not None:
                text = None if name in named else name
                named.add(name)
                axes.plot(ms, height, marker, color=COLOURS[name], label=text, ms=6, alpha=0.85)
    axes.set_yticks(range(len(ours)), [label(row, rows) for row in ours], fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    if named:
        axes.legend(frameon=False, fontsize=8)
    label_axes(axes, "Time against peers", "ms (log scale)", "")


def _sweep(axes: Axes, name: str, rows: Sequence[Row]) -> None:
    """Million embeddings per second of every contender."""
    title, xlabel, base = SWEEPS[name]
    for contender in dict.fromkeys(row.contender for row in rows if row.role != "floor"):
        points = [(row.x, row.items, row.ms) for row in rows if row.contender == contender]
        style = "o--" if "step" in contender else "o-"
        _speeds(axes, points, style, contender, COLOURS.get(contender, COLOURS["robe"]))
    floors = []
    for x in dict.fromkeys(row.x for row in rows):
        race = [row for row in rows if row.x == x]
        floors.append((x, race[0].items, fastest_floor(race)))
    _speeds(axes, floors, "o-", "copy", COLOURS["floor"])
    if base:
        axes.set_xscale("log", base=base)
    else:
        axes.set_xticks(sorted({row.x for row in rows if row.x}))
    axes.set_ylim(bottom=0)
    ylabel = "M samples/s" if name.startswith("inference") else "M embeddings/s"
    label_axes(axes, title, xlabel, ylabel)


def _speeds(axes: Axes, points: Points, style: str, name: str, colour: str) -> None:
    """A line through the measured points (x, items, milliseconds)."""
    known = [(x, items / ms / 1e3) for x, items, ms in points if ms]
    if known:
        axes.plot(*zip(*known, strict=True), style, ms=3, label=name, color=colour)


def _cache(axes: Axes, level: str, size: int | None) -> None:
    """A line where the array no longer fits a cache."""
    if size:
        axes.axvline(size, color="#999999", lw=0.8)
        axes.text(size, 0, f" {level}", fontsize=8, color="#666666", va="bottom")
