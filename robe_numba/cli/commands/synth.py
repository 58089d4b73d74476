"""`robe synth`: generate click logs whose best reachable AUC is known."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robe_numba.cli import loading
from robe_numba.cli.arguments import Overwrite, check_output_file
from robe_numba.cli.columns import numbers_of
from robe_numba.cli.console import console
from robe_numba.cli.progress import Quiet, tracking
from robe_numba.formatting import format_bytes

if TYPE_CHECKING:
    import numpy as np

    from data_tools.synthetic.generator import Generator

CEILING_ROWS = 2_000_000  # of a generated log, from which the best reachable AUC is computed


def ceiling(generator: "Generator", start: int, stop: int) -> tuple[float, float | None]:
    """Click rate of rows [start, stop), and the AUC of their true probabilities or None."""
    probabilities, labels = generator.truth(start, stop)
    return float(labels.mean()), _auc(labels, probabilities)


def _auc(labels: "np.ndarray", scores: "np.ndarray") -> float | None:
    with loading():
        from robe_numba.metrics import auc

    return float(auc(labels, scores)) if 0 < labels.sum() < labels.size else None


def _columns(multi_hot: tuple[str, ...]) -> str:
    """Options of `robe ingest` that name the columns of a log with lists."""
    from data_tools import CRITEO

    groups = {"dense": CRITEO.dense, "categorical": CRITEO.categorical, "multi-hot": multi_hot}
    return " ".join(f"--{name} {','.join(columns)}" for name, columns in groups.items())


def synth(
    output: Annotated[
        Path, typer.Argument(help="File to write: text, compressed if named .gz, or .parquet.")
    ],
    rows: Annotated[int, typer.Option(min=1, help="Number of lines.")] = 1_000_000,
    preset: Annotated[str, typer.Option(help="kaggle or terabyte.")] = "kaggle",
    scale: Annotated[float, typer.Option(help="Multiplies the cardinalities.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of the planted model and of the rows.")] = 0,
    multi_hot: Annotated[
        str | None,
        typer.Option(
            help="Add columns of lists L1, L2, ... of these mean lengths; needs a .parquet file."
        ),
    ] = None,
    start: Annotated[int, typer.Option(min=0, help="First row, to continue a log.")] = 0,
    labelled: Annotated[
        bool, typer.Option("--labelled/--unlabelled", help="With or without the label column.")
    ] = True,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Generate a click log in Criteo's format whose best reachable AUC is known.

    Columns, missing values, ids and click rate are distributed as in the real logs; clicks follow
    a planted model.

    Examples:

        robe synth clicks.tsv --rows 1000000

        robe synth day_0.gz --preset terabyte --rows 5000000 --seed 7

        robe synth new.tsv --rows 1000 --start 1000000 --unlabelled

        robe synth clicks.parquet --multi-hot 20,5
    """
    with loading():
        from data_tools.synthetic.generator import Generator

    check_output_file(output, overwrite)
    lengths = numbers_of(multi_hot, "--multi-hot") if multi_hot else ()
    generator = Generator(preset=preset, scale=scale, seed=seed, multi_hot=lengths)
    with tracking(f"writing {output.name}", quiet) as progress:
        generator.write(output, rows, start=start, labelled=labelled, progress=progress)
    stop = start + min(rows, CEILING_ROWS)
    rate, best = ceiling(generator, start, stop)
    console.print(f"{output}: {rows:,} rows, {format_bytes(output.stat().st_size)}")
    which = "these rows" if stop == start + rows else f"the first {CEILING_ROWS:,} rows"
    console.print(f"click rate of {which} {rate:.4f}{'' if labelled else ' (not in the file)'}")
    reach = "not defined: all labels are equal" if best is None else f"{best:.4f}"
    console.print(f"best reachable AUC on {which} (of the true probabilities) {reach}")
    if best is not None and generator.multi_hot:
        labels = generator.truth(start, stop)[1]
        first = _auc(labels, generator.first_id_truth(start, stop))
        console.print(
            f"best reachable AUC on {which} from only the first id of each list {first:.4f}"
        )
    if generator.multi_hot:
        console.print("the lists act by the mean of their ids: train with --pooling mean")
        console.print(f"robe ingest {output} -o data {_columns(generator.multi_hot)}")
