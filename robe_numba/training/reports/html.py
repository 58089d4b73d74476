"""report.html: one file that loads nothing else."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from data_tools.storage.atomic import write_text
from robe_numba.formatting import format_bytes
from robe_numba.training.days import last_day
from robe_numba.training.reports.plots import curves, svg
from robe_numba.training.run.folder import REPORT, RunFolder

# Titles of the metrics.
NAMES = {
    "rows": "rows",
    "click_rate": "click rate",
    "auc": "AUC",
    "log_loss": "log loss",
    "normalized_entropy": "normalised entropy",
    "calibration": "calibration (mean score / click rate)",
}
PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
       color: #222; }}
table {{ border-collapse: collapse; margin: 1rem 0; }}
th, td {{ text-align: left; padding: .2rem 1rem .2rem 0; border-bottom: 1px solid #ddd; }}
td {{ font-variant-numeric: tabular-nums; }}
svg {{ max-width: 100%; height: auto; }}
</style>
<h1>{title}</h1>
{body}
</html>
"""


def html_table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """An HTML table of text cells."""
    cells = "".join(f"<th>{escape(str(name))}</th>" for name in head)
    lines = [f"<tr>{cells}</tr>"]
    lines += [
        "<tr>" + "".join(f"<td>{escape(show(cell))}</td>" for cell in row) + "</tr>" for row in rows
    ]
    return "<table>\n" + "\n".join(lines) + "\n</table>"


def show(value: Any) -> str:
    """The text of a cell."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.5g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)


def page(title: str, body: str) -> str:
    """A whole HTML page."""
    return PAGE.format(title=escape(title), body=body)


def write_report(run: RunFolder) -> None:
    """Write report.html of a run: curves, metrics and settings."""
    records = run.metrics()
    validations = [record for record in records if "validation" in record]
    parts = []
    tests = [record["test"] for record in records if "test" in record]
    if tests:
        head = [NAMES[name] for name in tests[-1]]
        parts += ["<h2>Test rows</h2>", html_table(head, [list(tests[-1].values())])]
    if validations:
        parts += ["<h2>Training</h2>", svg(curves(validations)), _progress_table(validations)]
    if run.config["model"].get("pooling"):
        parts += ["<h2>Multi-hot features</h2>", _multi_hot(run.config)]
    parts += ["<h2>Settings</h2>", f"<p>{sizes(run)}</p>", _settings(run.config)]
    title = (
        f"{run.config['training']['embedding']} on {', '.join(run.config['dataset']['sources'])}"
    )
    write_text(run.path / REPORT, page(title, "\n".join(parts)))


def sizes(run: RunFolder) -> str:
    """Sizes of what model.safetensors holds."""
    held = run.config["sizes"]
    parts = {"embeddings": "embedding_bytes", "other layers": "dense_bytes"}
    if held["vocabulary_bytes"]:
        parts["known ids"] = "vocabulary_bytes"
    return ", ".join(f"{format_bytes(held[name])} of {title}" for title, name in parts.items())


def _progress_table(records: Sequence[Mapping[str, Any]]) -> str:
    head = ("epoch", "seconds", "training loss", "validation loss", "validation AUC", "kept")
    rows = [
        (
            record["epoch"],
            record["seconds"],
            record["train_loss"],
            record["validation"]["log_loss"],
            record["validation"]["auc"],
            "yes" if record["kept"] else "",
        )
        for record in records
    ]
    return html_table(head, rows)


def _multi_hot(config: Mapping[str, Any]) -> str:
    """How lists are pooled, and how long they are on average over the dataset."""
    facts, modes = config["dataset"], config["model"]["pooling"]
    weights = facts.get("weights") or [None] * len(modes)
    rows = list(zip(facts["multi_hot"], modes, facts["ids_per_row"], weights, strict=True))
    return html_table(("feature", "pooling", "mean ids per row", "weights"), rows)


def _settings(config: Mapping[str, Any]) -> str:
    rows = [(name, value) for name, value in config["training"].items() if value is not None]
    if config["training"]["split_by"] == "day":
        rows += [("last day", last_day(config["dataset"]["sources"]))]
    rows += [("rows in the dataset", config["dataset"]["rows"])]
    return html_table(("setting", "value"), rows)
