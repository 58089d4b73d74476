"""A plan as tables, and as JSON."""

from dataclasses import asdict
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from robe_numba.cli.console import console
from robe_numba.formatting import format_bytes
from robe_numba.planning.costs import Lines, Memory, SampleCosts
from robe_numba.planning.plan import Choice, Plan

LEGEND = """\
a sample   an average row of the log: its ids, the blocks read for them, the bytes read and pooled,
           and lines of 64 bytes. "lines" are read; "Adagrad" and "per block" are updated by a step,
           with one sum of squares per element or per block of Z. Repeated ids count each time
lines      cache lines that a row touches, average / most: of 64 bytes on CPUs, of 128 on GPUs
identical  expected number of rows that read the same elements as another row, of any table
noise      error of a row read back, over its length, if every row were stored as an independent
           vector (root mean square; of given rows with --sign); own: the part of it that the row's
           own blocks cause. A trained model need not store every row: it is there to compare"""


def train_options(made: Plan) -> str:
    """Options of `robe train` for the recommended choice."""
    chosen = made.recommendation.choice
    return (
        f"--dim {made.embedding_dim} --num-parameters {made.array_size} "
        f"--block-size {chosen.block_size}"
        + (f" --alignment {chosen.alignment}" if chosen.alignment > 1 else "")
        + (" --sign" if made.recommendation.sign else "")
    )


def facts(made: Plan, options: str) -> dict[str, Any]:
    """The whole plan for JSON; the recommendation names its choice by Z and alignment."""
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


def show(made: Plan, command: str) -> None:
    """Print a plan, and the command that trains accordingly."""
    console.print(
        f"{len(made.num_embeddings)} tables, {made.num_rows:,} rows of d = {made.embedding_dim}; "
        f"array of m = {made.array_size:,} float32, {made.compression:,.4g}x smaller\n"
    )
    console.print(_memory_table(made))
    console.print(_sample_table(made))
    console.print(_choices_table(made))
    console.print(f"{LEGEND}\n\n* {made.recommendation.reason}\n\n  {command}")


def _memory_table(made: Plan) -> Table:
    heads = ("memory", "weights", "+ SGD", "+ Adagrad", "+ Adagrad per block of Z")
    table = _table(*heads)
    choice = made.recommendation.choice
    table.add_row("tables, Z = d", *_memory_cells(made.tables))
    table.add_row(f"array, Z = {choice.block_size}", *_memory_cells(choice.memory))
    return table


def _sample_table(made: Plan) -> Table:
    heads = ("ids", "blocks", "read", "pooled", "lines", "Adagrad", "per block")
    table = _table("a sample", *heads)
    choice = made.recommendation.choice
    table.add_row("tables, Z = d", *_sample_cells(made.tables_sample))
    table.add_row(f"array, Z = {choice.block_size}", *_sample_cells(choice.sample))
    return table


def _sample_cells(sample: SampleCosts) -> list[str]:
    lines = (sample.cpu_lines, sample.adagrad_cpu_lines, sample.adagrad_block_cpu_lines)
    return [
        _count(sample.reads),
        _count(sample.blocks),
        format_bytes(sample.read_bytes),
        format_bytes(sample.pooled_bytes),
        *map(_count, lines),
    ]


def _count(number: float) -> str:
    """To four digits, but whole from a thousand on."""
    return f"{number:,.0f}" if number >= 1000 else f"{number:.4g}"


def _table(first: str, *others: str) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table


def _memory_cells(memory: Memory) -> list[str]:
    return [format_bytes(number) for number in asdict(memory).values()]


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
    """A number to two places; a small positive one is not shown as 0."""
    if 0 < number < 0.005:
        return f"<0.01{unit}"
    return f"{number:{form}}{unit}" if number else "0"
