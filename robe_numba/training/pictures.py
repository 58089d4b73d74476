"""Pictures of runs, where people would rather look than read."""

from collections.abc import Mapping, Sequence
from io import StringIO
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = {"full": "#444444", "robe": "#0b6e99", "hashed": "#d9730d", "qr": "#6f4e9c"}


def svg(figure: Figure) -> str:
    """The figure as an <svg> element; the same figure gives the same text."""
    text = StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "robe_numba", "svg.fonttype": "none"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


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


def auc_against_memory(
    results: Mapping[str, Sequence[tuple[float, float]]], ceiling: float | None = None
) -> Figure:
    """Test AUC against megabytes of embeddings, a line per kind and the best reachable AUC.

    Parameters
    ----------
    results : for each kind the (bytes, AUC) of its models.
    ceiling : AUC of the true probabilities, where it is known.
    """
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    for kind, points in results.items():
        megabytes = [size / 1e6 for size, _ in sorted(points)]
        axes.plot(megabytes, [auc for _, auc in sorted(points)], "o-", label=kind,
                  color=COLOURS.get(kind))  # fmt: skip
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
