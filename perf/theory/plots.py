"""The plot: marks are measured, bars ± 2 standard errors, lines are theory."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from perf.harness.plots import label_axes

COLOURS = ("#0b6e99", "#d9730d", "#6f4e9c")
MARKS = ("o", "x", "^")
FLOOR = 0.01  # rows that share all elements: smaller means over seeds are drawn here


@dataclass(frozen=True)
class Point:
    """One measured number and what theory says about it.

    Parameters
    ----------
    quantity : str
        What was measured.
    line : str
        The line in the plot that the point belongs to.
    x : float
        Its place on the line.
    at : str
        The same in words.
    measured, error : float
        Mean over seeds (or their variance), and its standard error.
    theory : float
        The exact value, where `claimed`; else that of independent uniform starts, to compare with
        a hash that does not promise it.
    claimed : bool
        Whether the hash promises the value of theory.
    sample : ndarray, (seeds,) float64, optional
        One value per seed, where the spread matters.
    """

    quantity: str
    line: str
    x: float
    at: str
    measured: float
    error: float
    theory: float
    claimed: bool = True
    sample: np.ndarray | None = None

    @property
    def deviation(self) -> float:
        """Distance from theory in standard errors."""
        return (self.measured - self.theory) / self.error


Points = Sequence[Point]


def draw(points: Points) -> Figure:
    """All panels, a column for each question."""
    figure = Figure(figsize=(16, 9), layout="constrained")
    panels = figure.subplots(2, 3)
    of = {name: [p for p in points if p.quantity == name] for name in {p.quantity for p in points}}
    shared = of["rows that share all"]
    ours = shared[0].line.split(",")[0]

    inner_products(panels[0, 0], of["variance, signed"])
    label_axes(panels[0, 0], "Inner product with signs: variance", "Z, elements", "variance")
    inner_products(panels[1, 0], of["bias, unsigned"])
    title = "Inner product without signs: bias"
    label_axes(panels[1, 0], title, "Z, elements", "mean - true value")
    same_start(panels[0, 1], of["same start"])
    label_axes(panels[0, 1], "Two ids start at the same place", "", "probability times n")
    distinct_starts(panels[1, 1], of["distinct starts"])
    title = "Starts that 4096 ids fill, of 4096"
    label_axes(panels[1, 1], title, "starts", "share of seeds with no more")
    shared_rows(panels[0, 2], [p for p in shared if p.line.startswith(ours)])
    label_axes(panels[0, 2], f"Rows that share all elements: {ours}", "m, elements", "rows")
    shared_rows(panels[1, 2], [p for p in shared if not p.line.startswith(ours)])
    label_axes(panels[1, 2], "Rows that share all elements: as published", "m, elements", "rows")
    for axes in panels.flat:
        axes.legend(frameon=False, fontsize=7, ncols=2)
    return figure


def inner_products(axes: Axes, points: Points) -> None:
    """A line for each m, over Z."""
    for colour, line in zip(COLOURS, _lines(points), strict=True):
        _measured(axes, line, colour, "o", line[0].line)
        axes.plot([p.x for p in line], [p.theory for p in line], color=colour, lw=1)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")


def same_start(axes: Axes, points: Points) -> None:
    """Three kinds of pairs side by side, relative to 1/n."""
    for i, line in enumerate(_lines(points)):
        x = [p.x + 0.15 * (i - 1) for p in line]
        rates = [p.measured / p.theory for p in line]
        errors = [2 * p.error / p.theory for p in line]
        axes.errorbar(x, rates, errors, fmt=MARKS[i], color=COLOURS[i],
                      ms=4, capsize=2, label=line[0].line)  # fmt: skip
    axes.axhline(1, color="#444444", lw=1)
    axes.set_xticks([p.x for p in line], [p.at for p in line])


def distinct_starts(axes: Axes, points: Points) -> None:
    """The distribution over seeds: solid lines for contiguous ids, dashed ones for strided ids."""
    for colour, line in zip(COLOURS, _lines(points), strict=True):
        for point, style in zip(line[:2], ("-", "--"), strict=True):
            assert point.sample is not None
            share = np.arange(1, len(point.sample) + 1) / len(point.sample)
            axes.step(np.sort(point.sample), share, style, where="post", color=colour, lw=1.3,
                      label=f"{point.line}, {point.at}")  # fmt: skip
    axes.axvline(points[0].theory, color="#444444", lw=1, label="independent starts, mean")
    axes.set_yscale("log")


def shared_rows(axes: Axes, points: Points) -> None:
    """Over m: a colour for each Z; a mark for each number of rows, or family."""
    for i, line in enumerate(_lines(points)):
        group, block = divmod(i, len(COLOURS))
        colour, mark = COLOURS[block], MARKS[group]
        found = [p for p in line if p.measured >= FLOOR]
        none = [p.x for p in line if p.measured < FLOOR]
        _measured(axes, found, colour, mark, line[0].line)
        axes.plot(none, [FLOOR] * len(none), mark, color=colour, mfc="none", ms=5)
        axes.plot([p.x for p in line], [p.theory for p in line], color=colour, lw=1)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(FLOOR / 2, 100 * max(p.theory for p in points))  # leaves room for the legend


def _lines(points: Points) -> list[list[Point]]:
    names = dict.fromkeys(p.line for p in points)
    return [[p for p in points if p.line == name] for name in names]


def _measured(axes: Axes, line: Points, colour: str, mark: str, label: str) -> None:
    axes.errorbar([p.x for p in line], [p.measured for p in line], [2 * p.error for p in line],
                  fmt=mark, color=colour, ms=4, capsize=2, label=label)  # fmt: skip
