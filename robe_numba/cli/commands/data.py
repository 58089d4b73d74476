"""`robe ingest`: make datasets of click logs."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from robe_numba.cli import loading
from robe_numba.cli.arguments import Overwrite
from robe_numba.cli.columns import numbers_of, schema_of
from robe_numba.cli.commands.dataset import show
from robe_numba.cli.console import console
from robe_numba.cli.progress import Quiet, tracking

SEPARATORS = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "pipe": "|"}
TWO_PASSES = (
    "two passes over the sources, the first to count ids: about twice the time, and 16 MB of disk "
    "per million rows while it runs"
)


def ingest(
    sources: Annotated[
        list[str],
        typer.Argument(help="Logs: text, CSV (also compressed) or Parquet; paths or s3://..."),
    ],
    output: Annotated[str, typer.Option("--output", "-o", help="Folder of the dataset.")],
    format: Annotated[str, typer.Option(help="auto, criteo, csv or parquet.")] = "auto",
    separator: Annotated[
        str | None,
        typer.Option(
            help="Between the fields of a CSV: a character, or tab. Default: as in its header."
        ),
    ] = None,
    on_error: Annotated[str, typer.Option(help="At a bad line: stop, or skip it.")] = "stop",
    dense_transform: Annotated[
        str, typer.Option(help="log1p, none, log3 (log(x+3)) or log-squared.")
    ] = "log1p",
    max_ind_range: Annotated[
        int | None, typer.Option(min=1, help="Ids modulo this; MLPerf uses 40000000.")
    ] = None,
    ids: Annotated[
        str, typer.Option(help="raw, or appearance: numbered by first appearance (two passes).")
    ] = "raw",
    min_count: Annotated[int, typer.Option(min=1, help="Rarer ids are merged (two passes).")] = 1,
    vocabulary: Annotated[
        Path | None, typer.Option(help="Use the known ids of this dataset instead of counting.")
    ] = None,
    multi_hot_sizes: Annotated[
        str | None,
        typer.Option(
            help="Make lists from single ids each time the dataset is read: ids per row of each "
            "id column, a,b,c, or mlperf. Needs --ids appearance."
        ),
    ] = None,
    multi_hot_seed: Annotated[
        int, typer.Option(min=0, help="Seed of the lists of --multi-hot-sizes.")
    ] = 0,
    label: Annotated[
        str | None, typer.Option(help="Label column. Default: label, if the log has it.")
    ] = None,
    dense: Annotated[
        str | None, typer.Option(help="Numeric columns, a,b,c. Default: Criteo's.")
    ] = None,
    categorical: Annotated[
        str | None, typer.Option(help="Id columns, a,b,c. Default: Criteo's.")
    ] = None,
    multi_hot: Annotated[
        str | None,
        typer.Option(
            help="Columns of lists of ids, a,b,c. Parquet lists may be in --categorical instead."
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="Columns with the weights of lists, LIST=WEIGHTS, as a=x,b=y."),
    ] = None,
    list_separator: Annotated[
        str | None,
        typer.Option(
            help="Between the ids of a list in a CSV: a character, or pipe, comma, semicolon, tab."
        ),
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(min=1, help="Most ids of a list; of longer ones the last are kept."),
    ] = None,
    file_format: Annotated[str, typer.Option(help="Shards as arrow or parquet.")] = "arrow",
    compression: Annotated[str, typer.Option(help="Of the shards: none, lz4 or zstd.")] = "none",
    shard_bytes: Annotated[
        int | None, typer.Option(min=1, help="Bytes of text per shard. Default: 16 to 128 MiB.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads. Default: all cores.")] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            help="threads, local (a Dask cluster on this machine, the default for several files if "
            "Dask is installed) or tcp://HOST:PORT."
        ),
    ] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Read click logs into a dataset: a folder of Arrow files with a manifest.

    Criteo's logs (Kaggle and Terabyte, plain or compressed, with or without labels) need no
    options. Describe other logs, as CSV or Parquet, by their columns. Columns with lists of ids are
    called multi-hot. Files that differ only in their numbers and come as the shell sorts them are
    taken in the order of the numbers. A bad line stops the command with its file, line number and
    reason; with --on-error skip it is counted, and the first hundred are kept in rejects.jsonl. If
    the command is killed or stopped, run it again to resume.

    Examples:

        robe ingest train.txt -o data

        robe ingest day_0.gz day_1.gz -o data --on-error skip

        robe ingest log.parquet -o data --label clicked --dense age,price --categorical user,item

        robe ingest log.tsv -o data --separator tab --dense age --categorical user,item

        robe ingest films.csv -o data --label liked --categorical user --multi-hot genres \
            --list-separator pipe --max-length 50

        robe ingest day_{0..23}.gz -o s3://bucket/data --scheduler tcp://10.0.0.1:8786
    """
    with loading():
        from data_tools import ingest as ingest_logs
        from data_tools.sources.source_order import in_numeric_order

    if ids == "appearance" or min_count > 1:
        console.print(TWO_PASSES if vocabulary is None else "ids become those of the vocabulary")
    given, sources = sources, in_numeric_order(sources)
    if sources != given:
        console.print(f"taken in the order of their numbers: {', '.join(sources)}")
    with _explaining_interrupts(), tracking("reading", quiet, unit="bytes") as progress:
        manifest = ingest_logs(
            sources,
            output,
            schema=schema_of(label, dense, categorical, multi_hot, weights),
            format=format,
            separator=_character(separator),
            list_separator=_character(list_separator),
            max_length=max_length,
            on_error=on_error,
            dense_transform=dense_transform,
            max_ind_range=max_ind_range,
            ids=ids,
            min_count=min_count,
            vocabulary=vocabulary,
            multi_hot_sizes=_sizes(multi_hot_sizes),
            multi_hot_seed=multi_hot_seed,
            labelled=True if label else None,
            file_format=file_format,
            compression=compression,
            shard_bytes=shard_bytes,
            threads=threads,
            scheduler=scheduler or _scheduler(len(sources)),
            overwrite=overwrite,
            progress=progress,
        )
    show(output, manifest)
    if not manifest.rows:
        typer.echo("warning: the sources hold no rows, so the dataset is empty", err=True)


def _character(name: str | None) -> str | None:
    """A separator that was given by itself or by its name."""
    return SEPARATORS.get(name, name) if name else None


def _sizes(text: str | None) -> str | tuple[int, ...] | None:
    """Ids per row of each id column."""
    return text if text in (None, "mlperf") else numbers_of(text, "--multi-hot-sizes")


@contextmanager
def _explaining_interrupts() -> Iterator[None]:
    """Say what is kept at Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        console.print("; ".join(["interrupted", *getattr(interrupt, "__notes__", ())]))
        raise typer.Exit(130) from None


def _scheduler(num_sources: int) -> str:
    """A local cluster for several files if Dask is installed."""
    return "local" if num_sources > 1 and importlib.util.find_spec("distributed") else "threads"
