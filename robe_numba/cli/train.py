"""`robe train`."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robe_numba import training
from robe_numba.cli import loading
from robe_numba.cli.console import console
from robe_numba.cli.outputs import Overwrite
from robe_numba.cli.progress import Quiet, TrainingProgress, showing
from robe_numba.parallel.group import Alone, Group
from robe_numba.training.settings import Settings
from robe_numba.training.watchers.base import Watcher, Watchers

if TYPE_CHECKING:
    from data_tools import Dataset
    from robe_numba.training import RunFolder, TrainingConfig

LOGS = ("mlperf",)


def train(
    context: typer.Context,
    data: Annotated[str, typer.Argument(help="Dataset made by robe ingest.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the run.")],
    preset: Annotated[
        str,
        typer.Option(
            help="default; as published: kaggle (d=16), mlperf, mlperf-32k or mlperf-55k (d=128)."
        ),
    ] = Settings.preset,
    embedding: Annotated[str, typer.Option(help="robe, full, hashed or qr.")] = Settings.embedding,
    compression: Annotated[
        float | None, typer.Option(help="Times smaller than the uncompressed tables.")
    ] = Settings.compression,
    num_parameters: Annotated[
        int | None, typer.Option(help="Elements to keep, instead of --compression.")
    ] = Settings.num_parameters,
    cardinalities: Annotated[
        str | None,
        typer.Option(
            help="Rows of the uncompressed tables: kaggle, terabyte, mlperf, 1000,200,30 or a "
            "file; default counts the training ids."
        ),
    ] = None,
    embedding_dim: Annotated[
        int | None, typer.Option("--dim", help="d, elements per embedding.")
    ] = Settings.embedding_dim,
    bottom: Annotated[
        str | None, typer.Option(help="Hidden widths of the bottom MLP, as 512-256-64.")
    ] = None,
    top: Annotated[str | None, typer.Option(help="Hidden widths of the top MLP.")] = None,
    block_size: Annotated[
        int | None, typer.Option(help="Z of robe; default d.")
    ] = Settings.block_size,
    hash: Annotated[str, typer.Option(help="multiply-shift, paper or uma.")] = Settings.hash,
    sign: Annotated[
        bool | None,
        typer.Option("--sign/--no-sign", help="Hashed signs; default for robe, but as published."),
    ] = Settings.sign,
    alignment: Annotated[
        int, typer.Option(help="Starts are multiples of it.")
    ] = Settings.alignment,
    optimizer: Annotated[str | None, typer.Option(help="sgd or adagrad.")] = Settings.optimizer,
    lr: Annotated[float | None, typer.Option(help="Learning rate.")] = Settings.lr,
    embedding_optimizer: Annotated[
        str | None, typer.Option(help="Of the embedding; default --optimizer.")
    ] = Settings.embedding_optimizer,
    embedding_lr: Annotated[
        float | None, typer.Option(help="Of the embedding; default --lr.")
    ] = Settings.embedding_lr,
    embedding_eps: Annotated[
        float, typer.Option(help="Of the embedding's Adagrad; larger slows rare ids down.")
    ] = Settings.embedding_eps,
    block_state: Annotated[
        bool,
        typer.Option(
            "--block-state", help="Adagrad keeps one sum per block of Z, not per element."
        ),
    ] = Settings.block_state,
    warmup_steps: Annotated[
        int | None, typer.Option(help="The learning rates rise linearly over so many steps.")
    ] = Settings.warmup_steps,
    decay_start: Annotated[
        int | None, typer.Option(help="Step at which they begin to fall, quadratically.")
    ] = Settings.decay_start,
    decay_steps: Annotated[
        int | None, typer.Option(help="Steps of the fall; default until the end.")
    ] = Settings.decay_steps,
    clip_norm: Annotated[
        float | None, typer.Option(help="Scale longer gradients down to this norm.")
    ] = Settings.clip_norm,
    epochs: Annotated[int, typer.Option(help="Passes over the training rows.")] = Settings.epochs,
    batch_size: Annotated[int | None, typer.Option(help="Rows per step.")] = Settings.batch_size,
    evaluations: Annotated[int, typer.Option(help="Validations per epoch.")] = Settings.evaluations,
    evaluation_steps: Annotated[
        int | None, typer.Option(help="Validate every so many steps instead.")
    ] = Settings.evaluation_steps,
    target_auc: Annotated[
        float | None, typer.Option(help="Stop at the first validation AUC that reaches it.")
    ] = Settings.target_auc,
    patience: Annotated[
        int | None, typer.Option(help="Stop after so many validations without a better AUC.")
    ] = Settings.patience,
    scale: Annotated[
        float | None, typer.Option(help="Half-width of the embedding's initial values.")
    ] = Settings.scale,
    fractions: Annotated[
        tuple[float, float, float], typer.Option(help="Train, validation, test shares.")
    ] = Settings.fractions,
    split_by: Annotated[
        str,
        typer.Option(help="order (in time), day (the last one validates and tests) or random."),
    ] = Settings.split_by,
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.")] = Settings.seed,
    device: Annotated[
        str, typer.Option(help="cpu, or cuda: one GPU per process.")
    ] = Settings.device,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Of each process; default: all cores, shared out.")
    ] = None,
    exchange: Annotated[
        str,
        typer.Option(help="Between processes: gather, reduce, or auto for the fewer bytes."),
    ] = Settings.exchange,
    log: Annotated[
        str | None, typer.Option(help="mlperf: also write its event lines, to mlperf.log.")
    ] = None,
    checkpoint_minutes: Annotated[
        float, typer.Option(min=0, help="Between checkpoints; 0 for one after each step.")
    ] = 10,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with the run in --output, or begin it if none is."),
    ] = False,
    use_previous: Annotated[
        bool,
        typer.Option("--use-previous", help="With --resume: pass over a damaged checkpoint."),
    ] = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Train a DLRM on a dataset and leave a run folder.

    The folder gets config.json, metrics.jsonl, model.safetensors (of the best validation AUC) and
    report.html, and curves for TensorBoard where that is installed. Killed or stopped with Ctrl-C,
    it goes on with --resume from its last checkpoint, to the same bytes; settings that are left
    out are then those of the run. With mpiexec -n 8 before it eight processes train together, on
    one machine or several; batch sizes are of all together, and another number of processes gives
    the same but for rounding.

    Examples:

        robe train data -o run --compression 1000

        robe train data -o run --resume

        robe train data -o run --preset kaggle --compression 1000 --optimizer adagrad --lr 0.02

        robe train data -o run --compression 100 --block-size 8 --epochs 4 --patience 4

        robe train data -o full --embedding full

        mpiexec -n 8 robe train data -o run --compression 1000
    """
    names = Settings.__dataclass_fields__
    settings: dict[str, Any] = {name: value for name, value in locals().items() if name in names}
    with loading():
        from data_tools import Dataset
        from robe_numba.cli.arguments import parse_widths
        from robe_numba.cli.sizes import parse_cardinalities
        from robe_numba.training.days import day_notes
        from robe_numba.training.loop import TrainingInterrupted
        from robe_numba.training.reports.html import sizes, write_report

    for name in ("bottom", "top"):
        settings[name] = None if settings[name] is None else parse_widths(settings[name])
    if cardinalities is not None:
        settings["cardinalities"] = parse_cardinalities(cardinalities)
    if log is not None and log not in LOGS:
        raise ValueError(f"log is {log!r}; choose {', '.join(LOGS)}")
    if resume and overwrite:
        raise ValueError("--resume goes on with a run and --overwrite replaces it; give one")
    if use_previous and not resume:
        raise ValueError("--use-previous is about the checkpoint of a run; add --resume")
    group: Group = context.obj or Alone()
    given = {name: value for name, value in settings.items() if _was_given(context, name)}
    config = group.at_root(lambda: _settings(output, resume, settings, given))
    config = replace(config, ranks=group.size)
    dataset = Dataset(data)
    for note in day_notes(dataset) if config.split_by == "day" else ():
        console.print(note)
    try:
        with showing(quiet) as display:
            watcher = Watcher()
            if group.is_root:
                assert config.batch_size is not None
                shown = TrainingProgress(display, config.embedding, config.batch_size, group.size)
                watcher = Watchers([shown, *_logs(dataset, config, output, log)])
            run = training.train(
                dataset,
                config,
                output,
                threads=threads,
                watcher=watcher,
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
            f"interrupted; {output} holds the best weights so far, ready to score; the same with "
            f"--resume goes on"
        )
        raise typer.Exit(130) from None
    group.at_root(lambda: write_report(run))
    if group.is_root:
        console.print(f"{output}: {sizes(run)}")
        show_metrics(run.metrics()[-1]["test"], "test")


def _settings(
    output: Path, resume: bool, settings: dict[str, Any], given: dict[str, Any]
) -> "TrainingConfig":
    """The settings of a new run, or of the run to go on with and those that were given anew."""
    if resume and training.RunFolder.stands_in(output):
        return _go_on_with(training.RunFolder(output), given)
    return training.TrainingConfig(**settings).resolved()


def _was_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _go_on_with(run: "RunFolder", given: dict[str, Any]) -> "TrainingConfig":
    """The settings of a run, and those that were given anew."""
    settings = run.config["training"]
    if "lr" in given and settings["embedding_lr"] == settings["lr"]:
        given = {"embedding_lr": given["lr"], **given}
    if "num_parameters" in given and "compression" not in given:
        given = {**given, "compression": None}
    return training.TrainingConfig.from_dict({**settings, **given}).resolved()


def _logs(
    dataset: "Dataset", config: "TrainingConfig", output: Path, log: str | None
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
