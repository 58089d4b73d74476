"""`robe sweep`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robe_numba.cli import loading
from robe_numba.cli.arguments import DataPath, parse_setting
from robe_numba.cli.console import console, print_whole
from robe_numba.cli.progress import Quiet, TrainingProgress, showing

if TYPE_CHECKING:
    from data_tools import Dataset
    from robe_numba.training.config import ResolvedConfig
    from robe_numba.training.sweeps.grid import Outcome


def sweep(
    data: DataPath,
    settings: Annotated[
        list[str] | None,
        typer.Argument(help="NAME=VALUE,VALUE,... for settings of robe train.", metavar="GRID"),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the sweep.")] = Path(
        "sweep"
    ),
    jobs: Annotated[int, typer.Option(min=1, help="Runs that train at the same time.")] = 1,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Threads per run. Default: all cores, shared equally."),
    ] = None,
    best_reachable: Annotated[
        float | None,
        typer.Option(help="Best reachable AUC that robe synth printed, for the plots."),
    ] = None,
    target_auc: Annotated[
        float | None, typer.Option(help="AUC for the time to target. Default: 0.002 below full.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Train every combination of settings, and compare them in a table and plots.

    Names are those of the options of robe train (embedding, compression, block_size, hash, sign,
    alignment, scale, optimizer, lr, embedding_lr, epochs, seed, ...); cardinalities are a name or a
    file, and pooling is a mode or that of one feature, genres=mean. Runs that differ only in their
    seed share a line, as mean ± standard deviation. If the command is stopped or killed, run it
    again to resume; finished runs are not trained again. A second grid in the same folder adds to
    the table. Without a grid only the table is made.

    Writes table.md, results.json, report.html and plots: AUC against memory, block size and epochs,
    and the time to a target AUC. With more than one job these times include waiting for each other.

    Examples:

        robe sweep data -o sweep embedding=full,robe,hashed,qr compression=10,100,1000 seed=0,1,2

        robe sweep data -o sweep compression=1000 block_size=1,4,16 sign=no,yes epochs=4 --jobs 2

        robe sweep data -o sweep cardinalities=kaggle compression=1000 lr=0.01,0.03
    """
    with loading():
        from rich.box import SIMPLE_HEAD
        from rich.table import Table

        from data_tools import Dataset
        from robe_numba.training.days import day_notes
        from robe_numba.training.sweeps.comparison import check_links, compare, default_target, rows
        from robe_numba.training.sweeps.grid import grid

    configs = grid(_axes(settings or ())) if settings else []
    check_links(output)
    dataset = Dataset(data)
    for note in day_notes(dataset) if any(c.split_by == "day" for c in configs) else ():
        console.print(note)
    outcomes = _run(dataset, configs, output, jobs, threads, quiet)
    for error in sorted({outcome.error for outcome in outcomes if outcome.error}):
        console.print(f"not trained: {error}")
    found = compare(output, best_reachable, target_auc)
    if not found:
        remedy = "the reasons are above" if configs else "give a grid, such as compression=10,100"
        raise ValueError(f"{output} has no finished run with a test AUC; {remedy}")
    head, lines = rows(found, target_auc or default_target(found))
    table = Table(*head, box=SIMPLE_HEAD)
    for line in lines:
        table.add_row(*line)
    print_whole(table)
    console.print(f"{output / 'report.html'} shows the plots")


def _axes(texts: Sequence[str]) -> dict[str, list[object]]:
    """The values of each NAME=VALUE,VALUE by name; a name that is repeated has all values."""
    axes: dict[str, list[object]] = {}
    for name, values in map(_axis, texts):
        axes[name] = [*axes.get(name, ()), *values]
    return axes


def _run(
    dataset: "Dataset",
    configs: "list[ResolvedConfig]",
    output: Path,
    jobs: int,
    threads: int | None,
    quiet: bool,
) -> "list[Outcome]":
    """Train the runs and show their progress."""
    from robe_numba.training.sweeps.grid import sweep as run_sweep

    try:
        with showing(quiet) as display:
            task = display.add("runs", "runs", len(configs))

            def watching(config: "ResolvedConfig") -> TrainingProgress:
                size = f" {config.compression:g}x" if config.compression else ""
                return TrainingProgress(display, f"{config.embedding}{size}", config.batch_size)

            return run_sweep(
                dataset,
                configs,
                output,
                jobs=jobs,
                threads=threads,
                watching=watching,
                progress=lambda done, total: display.update(task, completed=done, total=total),
            )
    except KeyboardInterrupt:
        console.print(f"interrupted; run the same command again to resume {output}")
        raise typer.Exit(130) from None


def _axis(text: str) -> tuple[str, list[object]]:
    """The name and the values of NAME=VALUE,VALUE."""
    name, equals, values = text.partition("=")
    if not equals or not values:
        raise ValueError(
            f"{text!r} is not a setting with values; write NAME=VALUE,VALUE, such as lr=0.01,0.03"
        )
    name = name.strip().replace("-", "_")
    name = "embedding_dim" if name == "dim" else name
    return name, [parse_setting(name, value.strip()) for value in values.split(",")]
