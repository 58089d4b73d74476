"""`robe evaluate` and `robe predict`: a trained model on other rows."""

from pathlib import Path
from typing import Annotated

import typer

from data_tools import Dataset
from robe_numba.cli.progress import console, tracking
from robe_numba.cli.train import show_metrics
from robe_numba.training import RunFolder
from robe_numba.training import evaluate as measure
from robe_numba.training import predict as write_scores

RunPath = Annotated[Path, typer.Argument(help="Folder left by robe train.")]
DataPath = Annotated[Path, typer.Argument(help="Dataset made by robe ingest.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Default: all cores.")]


def evaluate(
    run: RunPath,
    data: DataPath,
    part: Annotated[
        str, typer.Option(help="all, or train, validation or test as the run split its data.")
    ] = "all",
    threads: Threads = None,
) -> None:
    """Measure a trained model on labelled rows: AUC, log loss, normalised entropy, calibration.

    Examples:

        robe evaluate run next_day

        robe evaluate run data --part test
    """
    folder, dataset = RunFolder(run), Dataset(data)
    folder.check_dataset(dataset)
    if not dataset.labelled:
        raise ValueError(f"{data} has no labels; use robe predict to score it")
    training = folder.config["training"]
    split = dataset.split(part, training["fractions"], training["split_by"], training["seed"])
    with tracking("scoring") as progress:
        result = measure(folder.load_model(threads), split, progress)
    show_metrics(result, part)


def predict(
    run: RunPath,
    data: DataPath,
    output: Annotated[Path, typer.Option("--output", "-o", help="Parquet file to write.")],
    threads: Threads = None,
) -> None:
    """Score every row of a dataset, labelled or not, into a Parquet file.

    It has the column probability and, where the data has them, label, in the order of the rows.

    Examples:

        robe predict run new_rows -o scores.parquet
    """
    if output.suffix != ".parquet":
        raise ValueError(f"output is {output}; scores are written as Parquet, name it .parquet")
    folder, dataset = RunFolder(run), Dataset(data)
    folder.check_dataset(dataset)
    with tracking("scoring") as progress:
        rows = write_scores(folder.load_model(threads), dataset, output, progress)
    console.print(f"{output}: {rows:,} scores")
