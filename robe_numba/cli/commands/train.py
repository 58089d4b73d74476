"""`robe train`: train a model, or resume a run."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robe_numba import training
from robe_numba.cli import loading
from robe_numba.cli.arguments import DataPath, Overwrite, Threads, with_settings
from robe_numba.cli.console import console
from robe_numba.cli.progress import Quiet, TrainingProgress, showing
from robe_numba.parallel.group import Alone, Group
from robe_numba.training.watchers.base import Watcher, Watchers

if TYPE_CHECKING:
    from data_tools import Dataset
    from robe_numba.training.config import ResolvedConfig

LOGS = ("mlperf",)


@with_settings
def train(
    context: typer.Context,
    data: DataPath,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the run.")],
    settings: dict[str, Any],
    threads: Threads = None,
    log: Annotated[
        str | None, typer.Option(help="mlperf: also write MLPerf's event lines, to mlperf.log.")
    ] = None,
    checkpoint_minutes: Annotated[
        float,
        typer.Option(min=0, help="Minutes between checkpoints; 0 writes one after each step."),
    ] = 10,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Resume the run in --output, or start one if there is none."),
    ] = False,
    use_previous: Annotated[
        bool,
        typer.Option(
            "--use-previous",
            help="With --resume: use the checkpoint before the last if that is damaged.",
        ),
    ] = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Train a DLRM on a dataset and leave a run folder.

    The folder gets config.json, metrics.jsonl, model.safetensors (of the best validation AUC) and
    report.html, and curves for TensorBoard if that is installed. If the run is killed or stopped
    with Ctrl-C, --resume continues from its last checkpoint and ends with the same bytes; settings
    that are left out are then those of the run. Start eight processes that train together, on one
    machine or several, with mpiexec -n 8: the batch size is that of all together, and results
    differ from those of one process only by rounding.

    Examples:

        robe train data -o run --compression 1000

        robe train data -o run --resume

        robe train data -o run --preset kaggle --compression 1000 --optimizer adagrad --lr 0.02

        robe train data -o run --compression 100 --block-size 8 --epochs 4 --patience 4

        robe train data -o run --compression 100 --pooling genres=mean,seen=max

        robe train data -o full --embedding full

        mpiexec -n 8 robe train data -o run --compression 1000
    """
    with loading():
        from data_tools import Dataset
        from robe_numba.training.days import day_notes
        from robe_numba.training.reports.html import sizes, write_report
        from robe_numba.training.training_run import TrainingInterrupted

    _check_options(log, resume, use_previous, overwrite)
    group: Group = context.obj or Alone()
    config = group.at_root(lambda: _config(context, output, resume, settings))
    config = replace(config, ranks=group.size)
    dataset = Dataset(data)
    for note in day_notes(dataset) if config.split_by == "day" else ():
        console.print(note)
    try:
        with showing(quiet) as display:
            shown = TrainingProgress(display, config.embedding, config.batch_size, group.size)
            watchers = [shown, *_logs(dataset, config, output, log)] if group.is_root else []
            run = training.train(
                dataset,
                config,
                output,
                threads=threads,
                watcher=Watchers(watchers),
                overwrite=overwrite,
                resume=resume,
                use_previous=use_previous,
                checkpoint_seconds=60 * checkpoint_minutes,
                group=group,
            )
    except TrainingInterrupted as interrupted:
        stopped = interrupted.run
        group.at_root(lambda: write_report(stopped))
        console.print(
            f"interrupted; {output} has the best weights so far; add --resume to continue"
        )
        raise typer.Exit(130) from None
    group.at_root(lambda: write_report(run))
    if group.is_root:
        console.print(f"{output}: {sizes(run)}")
        show_metrics(run.metrics()[-1]["test"], "test")


def _check_options(log: str | None, resume: bool, use_previous: bool, overwrite: bool) -> None:
    if log is not None and log not in LOGS:
        raise ValueError(f"log is {log!r}; choose {', '.join(LOGS)}")
    if resume and overwrite:
        raise ValueError("--resume continues a run and --overwrite replaces it; give one")
    if use_previous and not resume:
        raise ValueError("--use-previous is about the checkpoint of a run; add --resume")


def _config(
    context: typer.Context, output: Path, resume: bool, settings: dict[str, Any]
) -> "ResolvedConfig":
    """The settings of a new run, or those of the run to resume with what was given changed."""
    if not (resume and training.RunFolder.exists_at(output)):
        return training.TrainingConfig(**settings).resolved()
    given = {name: value for name, value in settings.items() if _was_given(context, name)}
    old = training.RunFolder(output).config["training"]
    if "lr" in given and old["embedding_lr"] == old["lr"]:
        given = {"embedding_lr": given["lr"], **given}
    if "num_parameters" in given and "compression" not in given:
        given = {**given, "compression": None}
    return training.TrainingConfig.from_dict({**old, **given}).resolved()


def _was_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _logs(
    dataset: "Dataset", config: "ResolvedConfig", output: Path, log: str | None
) -> list[Watcher]:
    from robe_numba.training.watchers import tensorboard
    from robe_numba.training.watchers.mlperf import MLPerfLog

    logs: list[Watcher] = []
    if tensorboard.installed() and tensorboard.takes(output):
        logs.append(tensorboard.TensorBoardLog(output))
    if log == "mlperf" and dataset.labelled:
        rows = [
            dataset.split(part, config.fractions, config.split_by, config.seed).num_rows
            for part in ("train", "validation")
        ]
        logs.append(MLPerfLog(output, config, *rows))
    return logs


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
