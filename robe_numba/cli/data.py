"""`robe synth` and `robe ingest`: click logs, made and read."""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

import data_tools
from data_tools import CRITEO, Schema
from data_tools.synth import Generator
from robe_numba.cli.outputs import Overwrite, check_output_file
from robe_numba.cli.progress import console, tracking
from robe_numba.metrics import auc

CEILING_ROWS = 2_000_000  # of a generated log, whose true probabilities are compared


def ceiling(generator: Generator, start: int, stop: int) -> tuple[float, float | None]:
    """Click rate of rows [start, stop), and the AUC of their true probabilities if defined."""
    probabilities, labels = generator.truth(start, stop)
    both = 0 < labels.sum() < labels.size
    return float(np.mean(labels)), float(auc(labels, probabilities)) if both else None


def synth(
    output: Annotated[Path, typer.Argument(help="File to write; .gz by name is compressed.")],
    rows: Annotated[int, typer.Option(min=1, help="Lines.")] = 1_000_000,
    preset: Annotated[str, typer.Option(help="kaggle or terabyte.")] = "kaggle",
    scale: Annotated[float, typer.Option(help="Multiplies the cardinalities.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Another seed is another world.")] = 0,
    start: Annotated[int, typer.Option(min=0, help="First row, to go on with a log.")] = 0,
    labelled: Annotated[
        bool, typer.Option("--labelled/--unlabelled", help="With or without the label column.")
    ] = True,
    overwrite: Overwrite = False,
) -> None:
    """Generate a click log in Criteo's format, with a known best reachable AUC.

    Columns, missing values, ids and click rate are distributed as in the real logs; clicks follow
    a planted model.

    Examples:

        robe synth clicks.tsv --rows 1000000

        robe synth day_0.gz --preset terabyte --rows 5000000 --seed 7

        robe synth new.tsv --rows 1000 --start 1000000 --unlabelled
    """
    check_output_file(output, overwrite)
    generator = Generator(preset=preset, scale=scale, seed=seed)
    with tracking(f"writing {output.name}") as progress:
        generator.write(output, rows, start=start, labelled=labelled, progress=progress)
    stop = start + min(rows, CEILING_ROWS)
    rate, best = ceiling(generator, start, stop)
    console.print(f"{output}: {rows:,} rows, {output.stat().st_size / 1e6:,.1f} MB")
    which = "these rows" if stop == start + rows else f"the first {CEILING_ROWS:,} rows"
    console.print(f"click rate of {which} {rate:.4f}{'' if labelled else ' (not in the file)'}")
    reach = "not defined: all are alike" if best is None else f"{best:.4f}"
    console.print(f"best reachable AUC on {which} (of the true probabilities) {reach}")


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip()) if text else ()


def ingest(
    sources: Annotated[list[Path], typer.Argument(help="Logs: text, .gz, CSV or Parquet.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the dataset.")],
    format: Annotated[str, typer.Option(help="auto, criteo, csv or parquet.")] = "auto",
    on_error: Annotated[str, typer.Option(help="At a bad line: stop or skip.")] = "stop",
    dense_transform: Annotated[str, typer.Option(help="log1p or none.")] = "log1p",
    label: Annotated[
        str | None, typer.Option(help="Label column of another log; default label.")
    ] = None,
    dense: Annotated[str | None, typer.Option(help="Its numeric columns, a,b,c.")] = None,
    categorical: Annotated[str | None, typer.Option(help="Its id columns, a,b,c.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Read click logs into a dataset: a folder of Arrow files with a manifest.

    Criteo's logs (Kaggle and Terabyte, plain or .gz, with or without labels) need no options.
    Other logs, as CSV or Parquet, are described by their columns. A bad line stops with its file,
    line number and reason; with --on-error skip it is counted, and the first hundred are kept in
    rejects.jsonl.

    Examples:

        robe ingest train.txt -o data

        robe ingest day_0.gz day_1.gz -o data --on-error skip

        robe ingest log.parquet -o data --label clicked --dense age,price --categorical user,item
    """
    schema: Schema = CRITEO
    if label or dense or categorical:
        schema = Schema(label or "label", _names(dense), _names(categorical))
    options: dict[str, Any] = {"format": format, "on_error": on_error, "overwrite": overwrite}
    if label:
        options["labelled"] = True
    with tracking("reading", unit="bytes") as progress:
        manifest = data_tools.ingest(
            sources,
            output,
            schema=schema,
            dense_transform=dense_transform,
            progress=progress,
            **options,
        )
    files = len(manifest.shards)
    console.print(f"{output}: {manifest.rows:,} rows in {files} Arrow file{'s' * (files != 1)}")
    if not manifest.labelled:
        console.print("no labels: these rows can be scored, not trained on")
    elif manifest.positives is not None and manifest.rows:
        console.print(f"click rate {manifest.positives / manifest.rows:.4f}")
    if manifest.rejected:
        console.print(
            f"{manifest.rejected:,} bad lines left out, the first of them in "
            f"{output / 'rejects.jsonl'}"
        )
