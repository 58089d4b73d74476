"""The result of `robe demo`: AUC against memory, as a table and a plot."""

from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from data_tools.storage.atomic import write_text
from robe_numba.cli.console import console
from robe_numba.formatting import format_bytes
from robe_numba.training.reports.html import html_table, page
from robe_numba.training.reports.plots import Point, auc_against_memory, save_png, svg


@dataclass(frozen=True)
class DemoResult:
    """One trained model of the demo."""

    embedding: str
    compression: int | None
    num_bytes: int
    auc: float

    def cells(self) -> tuple[str, str, str, str]:
        """The cells of its row."""
        times = "1x" if self.compression is None else f"{self.compression}x smaller"
        return self.embedding, times, format_bytes(self.num_bytes), f"{self.auc:.4f}"


HEAD = ("embedding", "size", "memory", "test AUC")


def show(results: list[DemoResult], best: float | None, html: Path, picture: Path) -> None:
    """Print the table, and write a page with it and the plot, and the plot as a PNG."""
    table = Table(title="test AUC against memory")
    for name in HEAD:
        table.add_column(name, justify="left" if name in HEAD[:2] else "right")
    for result in results:
        table.add_row(*result.cells())
    last = ("best reachable", "", "", "-" if best is None else f"{best:.4f}")
    table.add_row(*last)
    console.print(table)
    points: dict[str, list[Point]] = {}
    for result in results:
        points.setdefault(result.embedding, []).append((result.num_bytes, result.auc, 0.0))
    figure = auc_against_memory(points, best)
    body = (
        "<p>A DLRM with each kind of embedding, trained the same way on one generated click log. "
        "The dashed line is the best AUC that any model can reach on these rows, the dotted line "
        "the AUC of the uncompressed tables.</p>"
        + svg(figure)
        + html_table(HEAD, [*(result.cells() for result in results), last])
    )
    write_text(html, page("AUC against memory", body))
    save_png(figure, picture)
