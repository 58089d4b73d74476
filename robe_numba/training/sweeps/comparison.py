"""Compare the runs of a sweep: one table, and plots."""

import json
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from data_tools.storage.atomic import write_text
from data_tools.storage.own_files import check_no_link
from robe_numba.formatting import format_bytes, markdown_table
from robe_numba.training.reports import plots
from robe_numba.training.reports.html import html_table, page
from robe_numba.training.run.folder import RunFolder
from robe_numba.training.settings import applies
from robe_numba.training.sweeps.grid import RUNS

TABLE, RESULTS, REPORT = "table.md", "results.json", "report.html"
# With all digits, so that different sizes never look alike.
exact_size = partial(format_bytes, digits=15)
PLOTS = ("memory", "block-size", "epochs", "target")


@dataclass
class SeedGroup:
    """Runs that differ only in their seed.

    Parameters
    ----------
    settings : dict
        Settings of all of them, without the seed.
    num_bytes : int
        Size of the embeddings.
    seeds : list of int
        One per run, as for the other lists.
    tests : list of float
        Test AUC.
    curves : list of list of (epoch, seconds, AUC)
        Validations.
    """

    settings: dict[str, Any]
    num_bytes: int
    seeds: list[int] = field(default_factory=list)
    tests: list[float] = field(default_factory=list)
    curves: list[list[tuple[float, float, float]]] = field(default_factory=list)

    @property
    def mean(self) -> float:
        """Mean test AUC."""
        return statistics.mean(self.tests)

    @property
    def deviation(self) -> float | None:
        """Standard deviation of the test AUC over the seeds; None for a single seed."""
        return statistics.stdev(self.tests) if len(self.tests) > 1 else None

    @property
    def validation(self) -> float:
        """Mean over seeds of the best validation AUC, by which a group may be chosen."""
        return statistics.mean(max(auc for *_, auc in curve) for curve in self.curves)

    @property
    def best_epoch(self) -> float:
        """Mean epoch of the best validation AUC."""
        return statistics.mean(max(c, key=lambda point: point[2])[0] for c in self.curves)

    @property
    def seconds(self) -> float:
        """Mean time until the last evaluation."""
        return statistics.mean(curve[-1][1] for curve in self.curves)

    def mean_curve(self) -> list[tuple[float, float]]:
        """(epoch, mean AUC) of the validations that all seeds have."""
        return [
            (points[0][0], statistics.mean(auc for *_, auc in points))
            for points in zip(*self.curves, strict=False)
        ]

    def time_to(self, target: float) -> float | None:
        """Mean seconds to a validation AUC of `target`; None if a seed never reached it."""
        times = [next((s for _, s, auc in c if auc >= target), None) for c in self.curves]
        known = [time for time in times if time is not None]
        return statistics.mean(known) if len(known) == len(times) else None


def groups(folder: str | os.PathLike[str]) -> list[SeedGroup]:
    """The finished runs of a sweep by their settings, without runs whose AUC is not defined.

    Returns
    -------
    list of SeedGroup
        Those of `full` first, the others from large to small.
    """
    found: dict[str, SeedGroup] = {}
    for path in sorted((Path(folder) / RUNS).glob("*/config.json")):
        run = RunFolder(path.parent)
        records = run.metrics()
        settings = run.settings
        seed = settings.pop("seed")
        tests = [r["test"]["auc"] for r in records if "test" in r]
        curve = [
            (record["epoch"], record["seconds"], record["validation"]["auc"])
            for record in records
            if "validation" in record and record["validation"]["auc"] is not None
        ]
        if not tests or tests[-1] is None or not curve:
            continue
        key = json.dumps(settings, sort_keys=True)
        size = run.config["sizes"]["embedding_bytes"]
        group = found.setdefault(key, SeedGroup(settings, size))
        group.seeds.append(seed)
        group.tests.append(tests[-1])
        group.curves.append(curve)
    order = {"full": 0}
    return sorted(
        found.values(),
        key=lambda g: (order.get(g.settings["embedding"], 1), -g.num_bytes, -g.validation),
    )


def varying(found: Sequence[SeedGroup]) -> list[str]:
    """Settings that differ between groups, except those that other columns show."""
    names = [name for name in found[0].settings if name not in ("embedding", "num_parameters")]

    def values(name: str) -> set[str]:
        return {str(g.settings.get(name)) for g in found if applies(name, g.settings["embedding"])}

    return [name for name in names if len(values(name)) > 1]


def best_of(found: Sequence[SeedGroup], names: Sequence[str]) -> dict[tuple[Any, ...], SeedGroup]:
    """The group of best validation AUC for each combination of settings (or "num_bytes")."""
    best: dict[tuple[Any, ...], SeedGroup] = {}
    for group in found:
        key = tuple(group.num_bytes if n == "num_bytes" else group.settings[n] for n in names)
        if key not in best or group.validation > best[key].validation:
            best[key] = group
    return best


def reference(found: Sequence[SeedGroup]) -> SeedGroup | None:
    """The best group of uncompressed tables."""
    return best_of(found, ["embedding"]).get(("full",))


def default_target(found: Sequence[SeedGroup]) -> float:
    """0.002 below the uncompressed tables, or the median of the groups if there are none."""
    full = reference(found)
    if full is not None:
        return full.validation - 0.002
    return statistics.median(group.validation for group in found)


def rows(found: Sequence[SeedGroup], target: float) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table, as text."""
    names, full = varying(found), reference(found)
    head = ["embedding", *(name.replace("_", " ") for name in names), "memory", "seeds"]
    head += ["test AUC", "against full", "best epoch", f"s to {target:.4f}"]
    lines = []
    for group in found:
        spread = "" if group.deviation is None else f" ± {group.deviation:.4f}"
        loss = "" if full is None or group is full else f"{group.mean - full.mean:+.4f}"
        time = group.time_to(target)
        lines.append(
            [
                group.settings["embedding"],
                *(_word(group.settings[name]) for name in names),
                exact_size(group.num_bytes),
                str(len(group.tests)),
                f"{group.mean:.4f}{spread}",
                loss,
                f"{group.best_epoch:.2f}",
                "-" if time is None else f"{time:,.0f}",
            ]
        )
    return head, lines


def _word(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return "-".join(map(str, value)) if len(value) < 10 else f"{sum(value):,} rows"
    return f"{value:,g}" if isinstance(value, float) else str(value)


def draw(found: Sequence[SeedGroup], ceiling: float | None, target: float) -> dict[str, Any]:
    """The figures for which the groups have points, by name."""
    figures = {}
    points: dict[str, list[tuple[float, float, float]]] = {}
    for group in best_of(found, ["embedding", "num_bytes"]).values():
        point = (group.num_bytes, group.mean, group.deviation or 0.0)
        points.setdefault(group.settings["embedding"], []).append(point)
    figures["memory"] = plots.auc_against_memory(points, ceiling)
    robe = [group for group in found if group.settings["embedding"] == "robe"]
    if len({group.settings["block_size"] for group in robe}) > 1:
        lines: dict[str, list[tuple[float, float, float]]] = {}
        for (size, block), group in best_of(robe, ["num_bytes", "block_size"]).items():
            point = (block, group.mean, group.deviation or 0.0)
            lines.setdefault(exact_size(size), []).append(point)
        figures["block-size"] = plots.auc_against_block_size(lines)
    chosen = best_of(found, ["embedding", "num_bytes"]).values()
    labels = {
        f"{g.settings['embedding']}, {exact_size(g.num_bytes)}": (g.settings["embedding"], g)
        for g in chosen
    }
    curves = {label: (kind, g.mean_curve()) for label, (kind, g) in labels.items()}
    figures["epochs"] = plots.auc_against_epochs(curves)
    times = {label: (kind, g.time_to(target)) for label, (kind, g) in labels.items()}
    if any(time is not None for _, time in times.values()):
        figures["target"] = plots.time_to_target(times, target)
    return figures


def check_links(folder: str | os.PathLike[str]) -> None:
    """Require that no output of a sweep is a symbolic link; the folder itself may be one.

    Raises
    ------
    OSError
        An output is a link.
    """
    for name in (RUNS, TABLE, RESULTS, REPORT, *(f"{plot}.png" for plot in PLOTS)):
        check_no_link(Path(folder) / name)


def compare(
    folder: str | os.PathLike[str], ceiling: float | None = None, target: float | None = None
) -> list[SeedGroup]:
    """Write table.md, results.json, report.html and a PNG of each plot to a sweep's folder.

    Parameters
    ----------
    folder : path
        Folder of a sweep.
    ceiling : float, optional
        The best AUC that any model can reach.
    target : float, optional
        Validation AUC for the time to target; None as `default_target`.

    Returns
    -------
    list of SeedGroup
        Empty if no run is finished; then nothing is written.

    Raises
    ------
    ValueError
        config.json or metrics.jsonl of a run is damaged.
    OSError
        As `check_links`, or a file cannot be read or written.
    """
    check_links(folder)
    found = groups(folder)
    if not found:
        return found
    target = default_target(found) if target is None else target
    head, lines = rows(found, target)
    path = Path(folder)
    write_text(path / TABLE, markdown_table(head, lines) + "\n")
    write_text(path / RESULTS, json.dumps([_facts(group) for group in found], indent=1) + "\n")
    figures = draw(found, ceiling, target)
    best = "" if ceiling is None else f"<p>Best reachable AUC (dashed): {ceiling:.4f}.</p>"
    body = html_table(head, lines) + best + "".join(map(plots.svg, figures.values()))
    write_text(path / REPORT, page("AUC against memory", body))
    for name, figure in figures.items():
        plots.save_png(figure, path / f"{name}.png")
    return found


def _facts(group: SeedGroup) -> Mapping[str, Any]:
    """A group for JSON, with every seed and validation."""
    return {
        "settings": group.settings,
        "embedding_bytes": group.num_bytes,
        "seeds": group.seeds,
        "test_auc": group.tests,
        "mean": group.mean,
        "deviation": group.deviation,
        "evaluations": group.curves,
    }
