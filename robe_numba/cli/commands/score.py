"""`robe evaluate` and `robe predict`: score rows with a trained model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robe_numba.cli import loading
from robe_numba.cli.arguments import DataPath, Overwrite, Storage, Threads, check_output_file
from robe_numba.cli.commands.train import show_metrics
from robe_numba.cli.console import console
from robe_numba.cli.progress import Quiet, tracking
from robe_numba.parallel.group import Alone, Group

if TYPE_CHECKING:
    from robe_numba.training import RunFolder

RunPath = Annotated[Path, typer.Argument(help="Folder of a run, made by robe train.")]
Device = Annotated[str, typer.Option(help="cpu, or cuda: one GPU per process.")]


def evaluate(
    context: typer.Context,
    run: RunPath,
    data: DataPath,
    part: Annotated[
        str | None,
        typer.Option(
            help="all, or, of the data that it was trained on, train, validation or test. Default: "
            "test for that data, all for other data."
        ),
    ] = None,
    threads: Threads = None,
    device: Device = "cpu",
    storage: Storage = "float32",
    quiet: Quiet = False,
) -> None:
    """Measure a trained model on labelled rows: AUC, log loss, normalised entropy, calibration.

    With mpiexec -n 8 eight processes share the rows.

    Examples:

        robe evaluate run next_day

        robe evaluate run data --part validation

        robe evaluate run data --storage int8
    """
    with loading():
        from data_tools import Dataset
        from robe_numba.training import check_alike, computing
        from robe_numba.training import evaluate as measure

    group: Group = context.obj or Alone()
    folder, dataset = group.at_root(lambda: opened_run(run)), Dataset(data)
    check_alike(group, dataset)
    folder.check_dataset(dataset)
    if not dataset.labelled:
        raise ValueError(f"{data} has no labels; use robe predict to score it")
    own = folder.is_own(dataset)
    part = part or ("test" if own else "all")
    if part != "all" and not own:
        raise ValueError(
            f"{data} is not the dataset that {run} was trained on, so it has no {part} rows; use "
            f"--part all"
        )
    settings = folder.config["training"]
    split = dataset.split(part, settings["fractions"], settings["split_by"], settings["seed"])
    with tracking("scoring", quiet) as progress, computing(device, threads, group) as number:
        model = folder.load_model(number, device, group, storage)
        result = measure(model, split, progress, group)
    show_metrics(result, part)


def predict(
    run: RunPath,
    data: DataPath,
    output: Annotated[Path, typer.Option("--output", "-o", help="Parquet file to write.")],
    threads: Threads = None,
    device: Device = "cpu",
    storage: Storage = "float32",
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Score every row of a dataset, labelled or not, and write a Parquet file.

    Its columns are probability and, if the data has labels, label; rows are in the dataset's order.

    Examples:

        robe predict run new_rows -o scores.parquet
    """
    with loading():
        from data_tools import Dataset
        from robe_numba.training import computing
        from robe_numba.training import predict as write_scores

    if output.suffix != ".parquet":
        raise ValueError(f"output is {output}; scores are written as Parquet, so name it .parquet")
    check_output_file(output, overwrite)
    folder, dataset = opened_run(run), Dataset(data)
    folder.check_dataset(dataset)
    with tracking("scoring", quiet) as progress, computing(device, threads):
        model = folder.load_model(threads, device, storage=storage)
        rows = write_scores(model, dataset, output, progress)
    console.print(f"{output}: {rows:,} scores")


def opened_run(path: Path) -> "RunFolder":
    """A run, with a warning if damage to it could not be detected."""
    with loading():
        from robe_numba.training import RunFolder

    run = RunFolder(path)
    if not run.has_digests:
        console.print(
            f"warning: {path} is from an earlier version, which kept no digests, so damage to its "
            f"model or settings cannot be detected"
        )
    return run
