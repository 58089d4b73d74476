"""`robe train`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from data_tools import Dataset
from robe_numba.cli.outputs import Overwrite
from robe_numba.cli.progress import TrainingBar, bar, console
from robe_numba.training import TrainingConfig, TrainingInterrupted, write_report
from robe_numba.training import train as run_training
from robe_numba.training.report import sizes


def train(
    data: Annotated[Path, typer.Argument(help="Dataset made by robe ingest.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the run.")],
    preset: Annotated[
        str, typer.Option(help="default, or as published: kaggle (d=16), mlperf (d=128).")
    ] = "default",
    embedding: Annotated[str, typer.Option(help="robe, full, hashed or qr.")] = "robe",
    compression: Annotated[
        float | None, typer.Option(help="Times smaller than the uncompressed tables.")
    ] = None,
    num_parameters: Annotated[
        int | None, typer.Option(help="Elements to keep, instead of --compression.")
    ] = None,
    dim: Annotated[int | None, typer.Option(help="d, elements per embedding.")] = None,
    block_size: Annotated[int | None, typer.Option(help="Z of robe; default d.")] = None,
    hash: Annotated[str, typer.Option(help="multiply-shift, paper or uma.")] = "multiply-shift",
    sign: Annotated[bool, typer.Option("--sign/--no-sign", help="Hashed signs.")] = False,
    alignment: Annotated[int, typer.Option(help="Starts are multiples of it.")] = 1,
    optimizer: Annotated[str | None, typer.Option(help="sgd or adagrad.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate.")] = None,
    embedding_optimizer: Annotated[
        str | None, typer.Option(help="Of the embedding; default --optimizer.")
    ] = None,
    embedding_lr: Annotated[
        float | None, typer.Option(help="Of the embedding; default --lr.")
    ] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the training rows.")] = 1,
    batch_size: Annotated[int | None, typer.Option(help="Rows per step.")] = None,
    evaluations: Annotated[int, typer.Option(help="Validations per epoch.")] = 4,
    scale: Annotated[
        float | None, typer.Option(help="Half-width of the embedding's initial values.")
    ] = None,
    fractions: Annotated[
        tuple[float, float, float], typer.Option(help="Train, validation, test shares.")
    ] = (0.8, 0.1, 0.1),
    split_by: Annotated[
        str,
        typer.Option(help="order (in time), day (the last one validates and tests) or random."),
    ] = "order",
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, or cuda: one GPU.")] = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="Default: all cores.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Train a DLRM on a dataset and leave a run folder.

    The folder gets config.json, metrics.jsonl, model.safetensors (of the best validation AUC) and
    report.html. Ctrl-C keeps what was learnt. The uncompressed tables, which --compression is
    counted from, have one row per distinct id of the training rows and one for unknown ids.

    Examples:

        robe train data -o run --compression 1000

        robe train data -o run --preset kaggle --compression 1000 --optimizer adagrad --lr 0.02

        robe train data -o run --compression 100 --block-size 8 --sign --epochs 2 --seed 1

        robe train data -o full --embedding full
    """
    settings: dict[str, Any] = {
        name: value
        for name, value in locals().items()
        if name not in ("data", "output", "threads", "overwrite", "dim")
    }
    config = TrainingConfig(**settings, embedding_dim=dim).resolved()
    dataset = Dataset(data)
    assert config.batch_size is not None
    try:
        with bar() as progress:
            watcher = TrainingBar(progress, config.embedding, config.batch_size)
            run = run_training(
                dataset, config, output, threads=threads, watcher=watcher, overwrite=overwrite
            )
    except TrainingInterrupted as interrupted:
        write_report(interrupted.run)
        console.print(f"interrupted; {output} holds the best weights so far, ready to score")
        raise typer.Exit(130) from None
    write_report(run)
    console.print(f"{output}: {sizes(run)}")
    show_metrics(run.metrics()[-1]["test"], "test")


def show_metrics(result: dict[str, Any], rows: str) -> None:
    """Print a line of metrics."""
    words = [f"{rows} rows {result['rows']:,}"]
    for name, title in (
        ("auc", "AUC"),
        ("log_loss", "log loss"),
        ("normalized_entropy", "normalised entropy"),
        ("calibration", "calibration"),
    ):
        words.append(f"{title} " + ("-" if result[name] is None else f"{result[name]:.4f}"))
    console.print(", ".join(words))
