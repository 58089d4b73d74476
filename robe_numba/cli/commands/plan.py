"""`robe plan`: choose the size and the block size of an array before training."""

import json
import os
import re
import shlex
from typing import Annotated, Any

import typer

from robe_numba.cli import loading
from robe_numba.cli.arguments import parse_cardinalities, parse_ids_per_row, parse_memory
from robe_numba.cli.progress import Quiet, tracking


def plan(
    cardinalities: Annotated[
        str | None,
        typer.Option(
            help="Rows of each table: kaggle, terabyte, mlperf (terabyte with at most 40,000,000 "
            "each), a,b,c, or a file with one size per line."
        ),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Dataset whose training rows to count instead.")
    ] = None,
    ids_per_row: Annotated[
        str | None,
        typer.Option(
            help="With --cardinalities: mean number of ids of each table in a row of the log, "
            "a,b,c, or mlperf, as in its DLRM-DCNv2. Default: 1 for all."
        ),
    ] = None,
    dim: Annotated[int, typer.Option(help="d, elements per embedding.")] = 16,
    memory: Annotated[
        str | None,
        typer.Option(help="Size of the array without optimizer state: 2MB, 512k, 1GiB."),
    ] = None,
    compression: Annotated[
        float | None,
        typer.Option(help="Or: times smaller than the uncompressed tables."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
    quiet: Quiet = False,
) -> None:
    """Compare the ways to use a ROBE array of a given size, and recommend how to train it.

    For every block size Z (elements per hash), with and without aligned starts, it shows the cache
    lines that a row touches, how many rows are identical to another, how much rows disturb each
    other, and the memory with each optimizer. Nothing is trained: all figures are computed from
    the sizes. --data counts the distinct ids of the training rows, and one more per table for
    unknown ids, as robe train does. The lengths of lists are means over the whole dataset.

    Examples:

        robe plan --cardinalities kaggle --dim 16 --memory 2MB

        robe plan --cardinalities terabyte --dim 128 --compression 1000

        robe plan --cardinalities mlperf --ids-per-row mlperf --dim 128 --compression 1000

        robe plan --cardinalities 1000000,20000,30 --dim 32 --compression 100

        robe plan --cardinalities sizes.txt --memory 512MiB --json

        robe plan --data data --compression 1000
    """
    with loading():
        from robe_numba.cli.commands.plan_tables import facts, show, train_options
        from robe_numba.planning.plan import plan as make_plan

    array_size = None if memory is None else _array_size(memory)
    if (array_size is None) == (compression is None):
        raise ValueError(f"a plan needs --memory or --compression; {_given(memory, compression)}")
    sizes, ids = _table_sizes(cardinalities, ids_per_row, data, quiet)
    made = make_plan(sizes, dim, array_size=array_size, compression=compression, ids_per_row=ids)
    options = train_options(made)
    if as_json:
        typer.echo(json.dumps(facts(made, options), indent=2))
    else:
        show(made, f"robe train {'DATA' if data is None else _quoted(data)} -o RUN {options}")


def _array_size(memory: str) -> int:
    """Elements that fit a size such as 2MB."""
    from robe_numba.planning.costs import FLOAT_BYTES

    num_bytes = parse_memory(memory)
    if num_bytes < FLOAT_BYTES:
        raise ValueError(
            f"memory is {num_bytes} bytes, but one float32 takes {FLOAT_BYTES}; give more"
        )
    return num_bytes // FLOAT_BYTES


def _given(first: Any, second: Any) -> str:
    return "neither is given" if first is None and second is None else "both are given"


def _quoted(path: str) -> str:
    """A path quoted for a shell and never an option, with Bash's escapes where it is not text."""
    path = f"./{path}" if path.startswith("-") else path
    if path.isprintable():
        return shlex.quote(path)
    escaped = re.sub(rb"[^ -~]|['\\]", lambda byte: b"\\x%02x" % ord(byte[0]), os.fsencode(path))
    return f"$'{escaped.decode()}'"


def _table_sizes(
    cardinalities: str | None, ids_per_row: str | None, data: str | None, quiet: bool
) -> tuple[tuple[int, ...], tuple[float, ...] | None]:
    """Rows of each table, and its mean number of ids in a row of the log; None for 1."""
    if cardinalities is not None and data is None:
        ids = None if ids_per_row is None else parse_ids_per_row(ids_per_row)
        return parse_cardinalities(cardinalities), ids
    if data is None or cardinalities is not None:
        raise ValueError(f"a plan needs --cardinalities or --data; {_given(cardinalities, data)}")
    if ids_per_row is not None:
        raise ValueError("--ids-per-row goes with --cardinalities; --data counts its ids")
    with loading():
        from data_tools import Dataset
        from robe_numba.training import TrainingConfig, training_vocabulary

    with tracking("counting ids", quiet, unit="columns") as progress:
        config = TrainingConfig(embedding="full")
        dataset = Dataset(data)
        known = training_vocabulary(dataset, config, progress)
    single = (1.0,) * dataset.schema.num_categorical
    return tuple(ids.size + 1 for ids in known), (*single, *dataset.ids_per_row)
