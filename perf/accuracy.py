"""Test AUC and memory of each kind of embedding on one generated log, with several seeds.

    python perf/accuracy.py                       one million rows, the README's table (20 minutes)
    python perf/accuracy.py --rows 100000 --seeds 1

All models are trained the same way and keep the weights of their best validation AUC. A model that
an earlier call finished is not trained again, so an interrupted call goes on where it stopped.
"""

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import machine

import data_tools
from data_tools import Dataset
from data_tools.synth import Generator
from robe_numba.metrics import auc
from robe_numba.training import RunFolder, TrainingConfig, train, training_vocabulary
from robe_numba.training.files import write_text
from robe_numba.training.pictures import auc_against_memory

DATA_SEED = 0  # the log is one; seeds vary the training


def main() -> None:
    """Make the log, train what is missing, print and write the table."""
    options = parse()
    output = options.output / f"{options.rows}-rows"
    dataset, best = make_log(output, options.rows)
    table: list[tuple[str, float | None, int, list[float]]] = []
    vocabulary = training_vocabulary(dataset, TrainingConfig(embedding="full"))
    for kind, compression in models(options.compressions, options.kinds):
        aucs, size = [], 0
        for seed in range(options.seeds):
            run = finished(dataset, options, output, kind, compression, seed, vocabulary)
            aucs.append(run.metrics()[-1]["test"]["auc"])
            size = run.config["sizes"]["embedding_bytes"]
        table.append((kind, compression, size, aucs))
        print(row(table[-1], table[0][3]), flush=True)
    write(output, table, best)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--block-size", type=int, default=16)
    parser.add_argument("--sign", action="store_true")
    parser.add_argument("--scale", type=float)
    parser.add_argument("--compressions", type=float, nargs="*", default=[10, 100, 1000])
    parser.add_argument("--kinds", nargs="*", default=["full", "robe", "hashed"])
    parser.add_argument("--output", type=Path, default=Path("runs/accuracy"))
    return parser.parse_args()


def models(compressions: Sequence[float], kinds: Sequence[str]) -> list[tuple[str, float | None]]:
    """The models of the table: the uncompressed one, then the others by size."""
    small = [(kind, c) for c in compressions for kind in kinds if kind != "full"]
    return [("full", None)] * ("full" in kinds) + small


def make_log(output: Path, rows: int) -> tuple[Dataset, float]:
    """The dataset, made once, and the AUC of the true probabilities of its test rows."""
    generator = Generator(preset="kaggle", seed=DATA_SEED)
    if not (output / "data" / "manifest.json").is_file():
        output.mkdir(parents=True, exist_ok=True)
        generator.write(output / "clicks.tsv", rows)
        data_tools.ingest(output / "clicks.tsv", output / "data", overwrite=True)
    dataset = Dataset(output / "data")
    probabilities, labels = generator.truth(rows - dataset.split("test").num_rows, rows)
    return dataset, auc(labels, probabilities)


def finished(
    dataset: Dataset,
    options: argparse.Namespace,
    output: Path,
    kind: str,
    compression: float | None,
    seed: int,
    vocabulary: Any,
) -> RunFolder:
    """The run of a model, trained now if no earlier call did."""
    config = TrainingConfig(
        embedding=kind,
        compression=compression,
        block_size=options.block_size if kind == "robe" else None,
        sign=options.sign and kind == "robe",
        scale=options.scale,
        optimizer="adagrad",
        lr=options.lr,
        epochs=options.epochs,
        batch_size=options.batch_size,
        evaluations=2,
        seed=seed,
    ).resolved()
    for path in sorted(output.glob("run-*")):
        run = RunFolder(path)
        done = any("test" in record for record in run.metrics())
        if done and run.config["training"] == config.to_dict():
            return run
    number = len(list(output.glob("run-*")))
    return train(dataset, config, output / f"run-{number}", vocabulary=vocabulary)


def row(entry: tuple[str, float | None, int, list[float]], full: list[float]) -> str:
    """A line of the Markdown table."""
    kind, compression, size, aucs = entry
    mean = statistics.mean(aucs)
    spread = f" ± {statistics.stdev(aucs):.4f}" if len(aucs) > 1 else ""
    times = "1" if compression is None else f"{compression:,g}"
    loss = f"{mean - statistics.mean(full):+.4f}"
    return f"| `{kind}` | {times}x | {size / 1e6:,.3f} MB | {mean:.4f}{spread} | {loss} |"


def write(
    output: Path, table: list[tuple[str, float | None, int, list[float]]], best: float
) -> None:
    """Leave table and picture in the output folder, and print the table."""
    lines = [
        "| embedding | compression | memory | test AUC | against `full` |",
        "|---|---|---|---|---|",
        *(row(entry, table[0][3]) for entry in table),
        f"| best reachable (planted) | | | {best:.4f} | |",
    ]
    write_text(output / "table.md", "\n".join(lines) + "\n")
    points: dict[str, list[tuple[float, float]]] = {}
    for kind, _, size, aucs in table:
        points.setdefault(kind, []).append((size, statistics.mean(aucs)))
    auc_against_memory(points, best).savefig(output / "auc.png", dpi=150)
    print("\n".join(lines), f"\n{machine.describe()}, {output}", sep="\n")


if __name__ == "__main__":
    main()
