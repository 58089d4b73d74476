"""The command line: its commands, and how errors are shown."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import robe_numba
from robe_numba.cli import needs
from robe_numba.cli.commands import (
    data,
    dataset,
    demo,
    export,
    plan,
    score,
    serve,
    sweep,
    synth,
    train,
)
from robe_numba.cli.console import make_console, print_anything
from robe_numba.parallel.group import Group
from robe_numba.parallel.launch import KNOWN, processes, reason

PARALLEL = ("train", "evaluate")  # commands that several processes may run together


class _CommandGroup(TyperGroup):
    """Gives --help a default: without one Typer imports Pydantic, which is slow."""

    def get_help_option(self, ctx: Any) -> Any:
        option = super().get_help_option(ctx)
        if option is not None:
            option.default = False
        return option


app = typer.Typer(
    name="robe",
    cls=_CommandGroup,
    help="Compress the embedding tables of a click model 10 to 1000 times: generate or read click "
    "logs, train a DLRM on them, and score new rows.\n\nStart with: robe demo",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
app.command("demo")(demo.demo)
app.command("synth")(synth.synth)
app.command("ingest")(data.ingest)
app.add_typer(dataset.data, name="data", cls=_CommandGroup)
app.command("plan")(plan.plan)
app.command("train")(train.train)
app.command("sweep")(sweep.sweep)
app.command("evaluate")(score.evaluate)
app.command("predict")(score.predict)
app.command("export")(export.export)
app.command("serve")(serve.serve)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"robe {robe_numba.__version__}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Options of the program itself."""
    group: Group | None = context.obj
    if group is not None and group.size > 1 and context.invoked_subcommand not in PARALLEL:
        raise ValueError(
            f"{group.size} processes were started, but robe {context.invoked_subcommand} is a "
            f"single process; start it without mpiexec (only {' and '.join(PARALLEL)} use several)"
        )


def run() -> None:
    """Run the command line; a user's error is one line without a traceback."""
    print_anything()
    try:
        with processes() as group, _root_output_only(group):
            app(obj=group)
    except MemoryError as error:
        _fail(f"not enough memory: {error}")
    except ModuleNotFoundError as error:
        _fail(needs(error))
    except KNOWN as error:
        _fail(reason(error))


@contextmanager
def _root_output_only(group: Group) -> Iterator[None]:
    """Discard the output of all processes but rank 0."""
    if group.is_root:
        yield
        return
    with (
        open(os.devnull, "w", errors="backslashreplace") as nowhere,
        redirect_stdout(nowhere),
        redirect_stderr(nowhere),
    ):
        yield


def _fail(message: str) -> None:
    make_console(stderr=True).print(f"error: {message}", style="red")
    sys.exit(1)
