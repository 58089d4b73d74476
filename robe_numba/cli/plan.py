"""`robe plan`: how large an array, and how to read it, before anything is trained."""

import json
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from data_tools import Dataset
from robe_numba import planning
from robe_numba.cli.progress import console, tracking
from robe_numba.cli.sizes import parse_cardinalities, parse_memory
from robe_numba.planning import Choice, Lines, Memory, Plan
from robe_numba.training import TrainingConfig, training_vocabulary

LEGEND = """\
lines      cache lines that a row touches, average / most: of 64 bytes on CPUs, of 128 on GPUs
identical  expected number of rows that read the same elements as another row, of any table
noise      error of a row read back, over its length, if every row were stored as an independent
           vector (root mean square; of given rows with --sign); own: the part of it that the row's
           own blocks cause. A trained model need not store every row: it is there to compare"""


def plan(
    cardinalities: Annotated[
        str | None,
        typer.Option(
            help="Rows of each table: kaggle, terabyte, mlperf (terabyte, at most 40,000,000 "
            "each), a,b,c, or a file with one size per line."
        ),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Dataset whose training rows to count instead.")
    ] = None,
    dim: Annotated[int, typer.Option(help="d, elements per embedding.")] = 16,
    memory: Annotated[
        str | None, typer.Option(help="Of the array, without optimizer state: 2MB, 512k, 1GiB.")
    ] = None,
    compression: Annotated[
        float | None, typer.Option(help="Times smaller than the uncompressed tables, instead.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The same as JSON.")] = False,
) -> None:
    """Show what a ROBE array of a given size will be like, and how to train it.

    Compares every block size Z (elements per hash), with and without aligned starts: the cache
    lines that a row touches, how many rows cannot be told from another, how much rows disturb each
    other, and memory with the optimizer's. Nothing is trained; all figures are worked out from the
    sizes. --data counts the distinct ids of the training rows, and one more per table for unknown
    ids, as robe train does.

    Examples:

        robe plan --cardinalities kaggle --dim 16 --memory 2MB

        robe plan --cardinalities terabyte --dim 128 --compression 1000

        robe plan --cardinalities 1000000,20000,30 --dim 32 --compression 100

        robe plan --cardinalities sizes.txt --memory 512MiB --json

        robe plan --data data --compression 1000
    """
    num_bytes = None if memory is None else parse_memory(memory)
    if (num_bytes is None) == (compression is None):
        raise ValueError(f"a plan needs --memory or --compression; {_given(memory, compression)}")
    if num_bytes is not None and num_bytes < planning.FLOAT_BYTES:
        raise ValueError(
            f"memory is {num_bytes} bytes, but one float32 takes {planning.FLOAT_BYTES}; give more"
        )
    made = planning.plan(
        _table_sizes(cardinalities, data),
        dim,
        array_size=None if num_bytes is None else num_bytes // planning.FLOAT_BYTES,
        compression=compression,
    )
    options = train_options(made)
    if as_json:
        typer.echo(json.dumps(_facts(made, options), indent=2))
    else:
        _show(made, f"robe train {data or 'DATA'} -o RUN {options}")


def _given(first: Any, second: Any) -> str:
    return "neither is given" if first is None and second is None else "both are given"


def _table_sizes(cardinalities: str | None, data: str | None) -> tuple[int, ...]:
    if cardinalities is not None and data is None:
        return parse_cardinalities(cardinalities)
    if data is None or cardinalities is not None:
        raise ValueError(f"a plan needs --cardinalities or --data; {_given(cardinalities, data)}")
    with tracking("counting ids", unit="columns") as progress:
        known = training_vocabulary(Dataset(data), TrainingConfig(embedding="full"), progress)
    return tuple(ids.size + 1 for ids in known)


def train_options(made: Plan) -> str:
    """Options of `robe train` for what is recommended."""
    chosen = made.recommendation.choice
    return (
        f"--dim {made.embedding_dim} --num-parameters {made.array_size} "
        f"--block-size {chosen.block_size}"
        + (f" --alignment {chosen.alignment}" if chosen.alignment > 1 else "")
        + (" --sign" if made.recommendation.sign else "")
    )


def _facts(made: Plan, options: str) -> dict[str, Any]:
    """All of a plan for JSON; the recommendation names its choice by Z and alignment."""
    advice = made.recommendation
    return {
        **asdict(made),
        "recommendation": {
            "block_size": advice.choice.block_size,
            "alignment": advice.choice.alignment,
            "sign": advice.sign,
            "reason": advice.reason,
            "train_options": options,
        },
    }


def _show(made: Plan, command: str) -> None:
    console.print(
        f"{len(made.num_embeddings)} tables, {made.num_rows:,} rows of d = {made.embedding_dim}; "
        f"array of m = {made.array_size:,} float32, {made.compression:,.4g}x smaller\n"
    )
    console.print(_memory_table(made))
    console.print(_choices_table(made))
    console.print(f"{LEGEND}\n\n* {made.recommendation.reason}\n\n  {command}")


def _memory_table(made: Plan) -> Table:
    heads = ("memory", "weights", "+ SGD", "+ Adagrad", "+ Adagrad per block of Z")
    table = _table(*heads)
    choice = made.recommendation.choice
    table.add_row("tables, Z = d", *_memory_cells(made.tables))
    table.add_row(f"array, Z = {choice.block_size}", *_memory_cells(choice.memory))
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table


def _memory_cells(memory: Memory) -> list[str]:
    return [size(number) for number in asdict(memory).values()]


def _choices_table(made: Plan) -> Table:
    heads = ("align", "64 B lines", "128 B", "identical", "of rows", "noise", "own")
    table = _table("Z", *heads)
    lines = (_lines(made.tables_cpu_lines), _lines(made.tables_gpu_lines))
    table.add_row("tables", "", *lines, "0", "0", "0", "0")
    best = made.recommendation.choice
    for choice in made.choices:
        mark, style = (" *", "bold") if choice == best else ("", None)
        table.add_row(f"{choice.block_size}{mark}", *_choice_cells(choice), style=style)
    return table


def _choice_cells(choice: Choice) -> list[str]:
    return [
        str(choice.alignment),
        _lines(choice.cpu_lines),
        _lines(choice.gpu_lines),
        _not_nothing(choice.identical_rows, ",.0f" if choice.identical_rows >= 10 else ".2f"),
        _not_nothing(100 * choice.identical_share, ".2f", " %"),
        f"{choice.noise:.4g}",
        f"{choice.own_noise:.2g}",
    ]


def _lines(lines: Lines) -> str:
    return f"{lines.average:.4g} / {lines.most}"


def _not_nothing(number: float, form: str, unit: str = "") -> str:
    """A number to two places, where little is not shown as nothing."""
    if 0 < number < 0.005:
        return f"<0.01{unit}"
    return f"{number:{form}}{unit}" if number else "0"


def size(num_bytes: int) -> str:
    """Bytes for people, decimal: 2 MB is 2,000,000."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if num_bytes >= factor:
            return f"{num_bytes / factor:,.4g} {unit}"
    return f"{num_bytes} B"
