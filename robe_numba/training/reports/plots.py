"""Plots of runs and sweeps."""

from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from data_tools.storage.atomic import replacing_own

COLOURS = {"full": "#444444", "robe": "#0b6e99", "hashed": "#d9730d", "qr": "#6f4e9c"}


def svg(figure: Figure) -> str:
    """The figure as an <svg> element, the same text for the same figure."""
    text = StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "robe_numba", "svg.fonttype": "none"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def save_png(figure: Figure, path: Path) -> None:
    """Write the figure as a PNG, atomically; errors are those of `replacing_own`."""
    with replacing_own(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


def _tidy(axes: Axes, xlabel: str, ylabel: str) -> None:
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def curves(records: Sequence[Mapping[str, Any]]) -> Figure:
    """Loss and AUC of a run over its epochs, from its validation records."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = [record["epoch"] for record in records]
    left.plot(epochs, [r["train_loss"] for r in records], "o-", label="training", ms=3)
    for axes, name, label in ((left, "log_loss", "validation"), (right, "auc", None)):
        points = [
            (r["epoch"], r["validation"][name])
            for r in records
            if r["validation"][name] is not None
        ]
        if points:
            axes.plot(*zip(*points, strict=True), "o-", label=label, ms=3, color="#d9730d")
    left.legend(frameon=False)
    _tidy(left, "epoch", "log loss")
    _tidy(right, "epoch", "validation AUC")
    return figure


# A point with its error bar: x, mean, standard deviation.
Point = tuple[float, float, float]


def _error_bars(axes: Axes, points: Sequence[Point], label: str, colour: str | None = None) -> None:
    x, means, deviations = zip(*sorted(points), strict=True)
    axes.errorbar(
        x, means, yerr=deviations, fmt="o-", ms=4, capsize=3, lw=1.2, label=label, color=colour
    )


def auc_against_memory(
    results: Mapping[str, Sequence[Point]], ceiling: float | None = None
) -> Figure:
    """Test AUC against the size of the embeddings, with a line per kind.

    Parameters
    ----------
    results : mapping of str to sequence of (bytes, mean AUC, standard deviation)
        The models of each kind.
    ceiling : float, optional
        AUC of the true probabilities, drawn as the best reachable one.

    Returns
    -------
    Figure
    """
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    for kind, points in results.items():
        scaled = [(size / 1e6, mean, deviation) for size, mean, deviation in points]
        _error_bars(axes, scaled, kind, COLOURS.get(kind))
    if "full" in results:
        uncompressed = results["full"][0][1]
        axes.axhline(uncompressed, color=COLOURS["full"], lw=0.8, ls=":", label="uncompressed")
    if ceiling is not None:
        axes.axhline(ceiling, color="#2e7d32", lw=1, ls="--", label="best reachable")
    axes.set_xscale("log")
    axes.set_title("What compression costs")
    axes.legend(frameon=False)
    _tidy(axes, "embeddings, MB (log scale)", "test AUC")
    return figure


def auc_against_block_size(lines: Mapping[str, Sequence[Point]]) -> Figure:
    """Test AUC of robe against Z, with a line per size; points are (Z, mean AUC, deviation)."""
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    for label, points in lines.items():
        _error_bars(axes, points, label)
    axes.set_xscale("log", base=2)
    axes.legend(frameon=False)
    _tidy(axes, "block size Z, elements", "test AUC")
    return figure


def auc_against_epochs(
    lines: Mapping[str, tuple[str, Sequence[tuple[float, float]]]],
) -> Figure:
    """Validation AUC over the epochs; for each label (kind, (epoch, AUC) of each evaluation)."""
    figure = Figure(figsize=(7.6, 4.4), layout="constrained")
    axes = figure.subplots()
    drawn: dict[str, int] = {}
    for label, (kind, points) in lines.items():
        number = drawn[kind] = drawn.get(kind, 0) + 1  # lighter from size to size
        epochs, aucs = zip(*points, strict=True)
        axes.plot(epochs, aucs, "o-", ms=3, lw=1.2, label=label, color=COLOURS.get(kind),
                  alpha=max(0.25, 1.15 - 0.25 * number))  # fmt: skip
    axes.legend(frameon=False, fontsize=8, bbox_to_anchor=(1, 1), loc="upper left")
    _tidy(axes, "epoch", "validation AUC")
    return figure


def time_to_target(times: Mapping[str, tuple[str, float | None]], target: float) -> Figure:
    """Seconds to a validation AUC as bars; for each label (kind, seconds or None)."""
    figure = Figure(figsize=(7.6, 0.8 + 0.32 * len(times)), layout="constrained")
    axes = figure.subplots()
    for place, (kind, seconds) in enumerate(times.values()):
        axes.barh(place, seconds or 0, color=COLOURS.get(kind))
        if seconds is None:
            axes.text(0, place, " not reached", va="center", fontsize=8, color="#777777")
    axes.set_yticks(range(len(times)), list(times))
    axes.invert_yaxis()
    _tidy(axes, f"seconds to a validation AUC of {target:.4f}", "")
    return figure
