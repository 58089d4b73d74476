"""`robe sweep`."""

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
        typer.Argument(help="NAME=VALUE,VALUE,... of the settings of robe train.", metavar="GRID"),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder.")] = Path("sweep"),
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time.")] = 1,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Of each run; default shares the cores out.")
    ] = None,
    best_reachable: Annotated[
        float | None, typer.Option(help="AUC that robe synth told, for the pictures.")
    ] = None,
    target_auc: Annotated[
        float | None, typer.Option(help="To tell the time to; default 0.002 below full.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Train every combination of settings, and compare them in one table and pictures.

    Names are the options of robe train (embedding, compression, block_size, hash, sign, alignment,
    scale, optimizer, lr, embedding_lr, epochs, seed, ...); cardinalities are named or in a file.
    Runs that differ in their seed alone become one line, mean ± standard deviation. Stopped or
    killed, the same command resumes; runs that are finished are not trained again, and a second
    grid in the same folder joins the table. Without a grid the table is made anew.

    Leaves table.md, results.json, report.html and pictures: AUC against memory, block size and
    epochs, and the time to a target AUC. With more than one job these times include waiting for
    each other.

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

    axes: dict[str, list[object]] = {}
    for name, values in map(_axis, settings or ()):
        axes[name] = [*axes.get(name, ()), *values]
    configs = grid(axes) if axes else []
    check_links(output)
    dataset = Dataset(data)
    for note in day_notes(dataset) if any(c.split_by == "day" for c in configs) else ():
        console.print(note)
    outcomes = _run(dataset, configs, output, jobs, threads, quiet)
    for error in sorted({outcome.error for outcome in outcomes if outcome.error}):
        console.print(f"left out: {error}")
    found = compare(output, best_reachable, target_auc)
    if not found:
        remedy = "what each needs stands above" if configs else "give a grid, as compression=10,100"
        raise ValueError(f"{output} has no finished run with a test AUC; {remedy}")
    head, lines = rows(found, target_auc or default_target(found))
    table = Table(*head, box=SIMPLE_HEAD)
    for line in lines:
        table.add_row(*line)
    print_whole(table)
    console.print(f"{output / 'report.html'} shows the pictures")


def _run(
    dataset: "Dataset",
    configs: "list[ResolvedConfig]",
    output: Path,
    jobs: int,
    threads: int | None,
    quiet: bool,
) -> "list[Outcome]":
    """What became of each run."""
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
        raise ValueError(f"{text!r} is no part of a grid; write NAME=VALUE,VALUE, as lr=0.01,0.03")
    name = name.strip().replace("-", "_")
    name = "embedding_dim" if name == "dim" else name
    return name, [parse_setting(name, value.strip()) for value in values.split(",")]
