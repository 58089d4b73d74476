"""`robe demo`: what compression saves and costs, on a generated log."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from data_tools.storage.own_files import open_own
from data_tools.storage.paths import check_room_for_folder
from robe_numba.cli import loading
from robe_numba.cli.commands.synth import ceiling
from robe_numba.cli.console import console
from robe_numba.cli.progress import Quiet, TrainingProgress, showing, tracking

if TYPE_CHECKING:
    from data_tools import Dataset
    from robe_numba.cli.commands.demo_page import DemoResult

MODELS = (("full", None), ("robe", 100), ("robe", 1000), ("hashed", 100), ("hashed", 1000))
MARKER = ".robe-demo"  # in folders that a demo made
LOG, DATA, PAGE, PICTURE = "clicks.tsv", "data", "demo.html", "demo.png"


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write to.")] = Path(
        "robe-demo"
    ),
    rows: Annotated[int, typer.Option(min=10_000, help="Rows to generate.")] = 300_000,
    seed: Annotated[int, typer.Option(help="Seed of the data and of training.")] = 0,
    quiet: Quiet = False,
) -> None:
    """Generate a click log, train five models on it, and compare AUC and memory.

    Trains uncompressed tables, ROBE at 100x and 1000x, and whole-row hashing at the same sizes, and
    compares them with the best AUC that any model could reach on these rows. Takes a minute or two
    and 160 MB of disk.

    Examples:

        robe demo

        robe demo --rows 1000000 -o big-demo
    """
    with loading():
        from data_tools import Dataset, ingest
        from data_tools.synthetic.generator import Generator
        from robe_numba.cli.commands.demo_page import show

    begun = time.perf_counter()
    _clear(output)
    generator = Generator(preset="kaggle", seed=seed)
    log, data = output / LOG, output / DATA
    with tracking("generating", quiet) as progress:
        generator.write(log, rows, progress=progress)
    with tracking("ingesting", quiet, unit="bytes") as progress:
        ingest(log, data, progress=progress)
    dataset = Dataset(data)
    results = _train_all(dataset, output, seed, quiet)
    test_rows = dataset.split("test").num_rows
    _, best = ceiling(generator, rows - test_rows, rows)
    show(results, best, output / PAGE, output / PICTURE)
    seconds = time.perf_counter() - begun
    console.print(f"{output / PAGE} shows the picture; done in {seconds:.0f} s")


def model_name(kind: str, compression: int | None) -> str:
    """The folder of a model's run."""
    return kind if compression is None else f"{kind}-{compression}x"


def _clear(output: Path) -> None:
    """Make the folder, or remove what an earlier demo left there and nothing else."""
    with loading():
        from data_tools.storage.atomic import remove

    check_room_for_folder(output)
    made = {MARKER, LOG, DATA, PAGE, PICTURE, *(model_name(*model) for model in MODELS)}
    there = {path.name for path in output.iterdir()} if output.is_dir() else set()
    if there and MARKER not in there:
        raise FileExistsError(f"{output} is not empty; give another folder with --output")
    if there - made:
        raise FileExistsError(
            f"{output} has {', '.join(sorted(there - made))} besides an earlier demo; give another "
            f"folder with --output"
        )
    for name in there - {MARKER}:  # the marker stays, so that an interrupted demo can be repeated
        remove(output / name)
    output.mkdir(parents=True, exist_ok=True)
    open_own(output / MARKER, "w").close()


def _train_all(dataset: "Dataset", output: Path, seed: int, quiet: bool) -> "list[DemoResult]":
    with loading():
        from robe_numba.cli.commands.demo_page import DemoResult
        from robe_numba.training import TrainingConfig, train, training_vocabulary, write_report

    results = []
    with tracking("counting ids", quiet, unit="columns") as progress:
        vocabulary = training_vocabulary(dataset, TrainingConfig(embedding="full"), progress)
    with showing(quiet) as display:
        for number, (kind, compression) in enumerate(MODELS, start=1):
            config = TrainingConfig(
                embedding=kind, compression=compression, evaluations=2, seed=seed
            ).resolved()
            name = model_name(kind, compression)
            title = f"{number}/{len(MODELS)} {name}"
            watcher = TrainingProgress(display, title, config.batch_size)
            run = train(dataset, config, output / name, vocabulary=vocabulary, watcher=watcher)
            write_report(run)
            auc = run.metrics()[-1]["test"]["auc"]
            size = run.config["sizes"]["embedding_bytes"]
            results.append(DemoResult(kind, compression, size, auc))
    return results
