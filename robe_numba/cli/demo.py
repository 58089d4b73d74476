"""`robe demo`: what compression costs and saves, shown on a generated log."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

import data_tools
from data_tools import Dataset
from data_tools.own_files import open_own
from data_tools.paths import check_room_for_folder
from data_tools.synth import Generator
from robe_numba.cli.data import ceiling
from robe_numba.cli.progress import TrainingBar, bar, console, tracking
from robe_numba.training import TrainingConfig, train, training_vocabulary, write_report
from robe_numba.training.files import remove, write_text
from robe_numba.training.pictures import Point, auc_against_memory, save_png, svg
from robe_numba.training.report import html_table, page

MODELS = (("full", None), ("robe", 100), ("robe", 1000), ("hashed", 100), ("hashed", 1000))
MARKER = ".robe-demo"  # in folders that a demo made
LOG, DATA, PAGE, PICTURE = "clicks.tsv", "data", "demo.html", "demo.png"


@dataclass(frozen=True)
class Result:
    """One trained model of the demo."""

    embedding: str
    compression: int | None
    num_bytes: int
    auc: float

    def cells(self) -> tuple[str, str, str, str]:
        """The row of a table."""
        times = "1x" if self.compression is None else f"{self.compression}x smaller"
        return (
            self.embedding,
            times,
            f"{self.num_bytes / 1e6:,.3f}",
            f"{self.auc:.4f}",
        )


HEAD = ("embedding", "size", "MB", "test AUC")


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder.")] = Path("robe-demo"),
    rows: Annotated[int, typer.Option(min=10_000, help="Rows to generate.")] = 300_000,
    seed: Annotated[int, typer.Option(help="Of data and training.")] = 0,
) -> None:
    """Generate a click log, train five models on it, and compare AUC and memory.

    Trains an uncompressed table, ROBE at 100x and 1000x, and whole-row hashing at the same sizes,
    and shows them beside the best AUC that any model could reach on these rows. Takes a minute or
    two, and 160 MB in the output folder.

    Examples:

        robe demo

        robe demo --rows 1000000 -o big-demo
    """
    begun = time.perf_counter()
    _clear(output)
    generator = Generator(preset="kaggle", seed=seed)
    log, data = output / LOG, output / DATA
    with tracking("generating") as progress:
        generator.write(log, rows, progress=progress)
    with tracking("ingesting", unit="bytes") as progress:
        data_tools.ingest(log, data, progress=progress)
    dataset = Dataset(data)
    results = _train_all(dataset, output, seed)
    test_rows = dataset.split("test").num_rows
    _, best = ceiling(generator, rows - test_rows, rows)
    _show(results, best, output, time.perf_counter() - begun)


def model_name(kind: str, compression: int | None) -> str:
    """The folder of a model's run."""
    return kind if compression is None else f"{kind}-{compression}x"


def _clear(output: Path) -> None:
    """Make the folder, or remove what an earlier demo left in it, and nothing else."""
    check_room_for_folder(output)
    made = {MARKER, LOG, DATA, PAGE, PICTURE, *(model_name(*model) for model in MODELS)}
    there = {path.name for path in output.iterdir()} if output.is_dir() else set()
    if there and MARKER not in there:
        raise FileExistsError(f"{output} is not empty; give another folder with --output")
    if there - made:
        raise FileExistsError(
            f"{output} holds {', '.join(sorted(there - made))} besides an earlier demo; give "
            f"another folder with --output"
        )
    for name in there - {MARKER}:  # which stays, so that an interrupted demo can be made again
        remove(output / name)
    output.mkdir(parents=True, exist_ok=True)
    open_own(output / MARKER, "w").close()


def _train_all(dataset: Dataset, output: Path, seed: int) -> list[Result]:
    results = []
    vocabulary = training_vocabulary(dataset, TrainingConfig(embedding="full"))
    with bar() as progress:
        for number, (kind, compression) in enumerate(MODELS, start=1):
            config = TrainingConfig(
                embedding=kind, compression=compression, evaluations=2, seed=seed
            ).resolved()
            name = model_name(kind, compression)
            watcher = TrainingBar(
                progress, f"{number}/{len(MODELS)} {name}", config.batch_size or 1
            )
            run = train(dataset, config, output / name, vocabulary=vocabulary, watcher=watcher)
            write_report(run)
            auc = run.metrics()[-1]["test"]["auc"]
            size = run.config["sizes"]["embedding_bytes"]
            results.append(Result(kind, compression, size, auc))
    return results


def _show(results: list[Result], best: float | None, output: Path, seconds: float) -> None:
    """Print the table and write it, with a picture, as demo.html."""
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
        "that of the uncompressed tables.</p>"
        + svg(figure)
        + html_table(HEAD, [*(result.cells() for result in results), last])
    )
    write_text(output / PAGE, page("AUC against memory", body))
    save_png(figure, output / PICTURE)
    console.print(f"{output / 'demo.html'} shows the picture; done in {seconds:.0f} s")
