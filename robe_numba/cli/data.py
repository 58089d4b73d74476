"""`robe synth`, `robe ingest` and `robe data`: click logs, made, read and looked after."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from data_tools.sources.rejects import REJECTS_NAME
from robe_numba.cli import loading
from robe_numba.cli.arguments import DataPath, Overwrite, check_output_file
from robe_numba.cli.console import console
from robe_numba.cli.progress import Quiet, tracking

if TYPE_CHECKING:
    from data_tools import Manifest
    from data_tools.synthetic.generator import Generator

CEILING_ROWS = 2_000_000  # of a generated log, whose true probabilities are compared


def ceiling(generator: "Generator", start: int, stop: int) -> tuple[float, float | None]:
    """Click rate of rows [start, stop), and the AUC of their true probabilities if defined."""
    with loading():
        from robe_numba.metrics import auc

    probabilities, labels = generator.truth(start, stop)
    both = 0 < labels.sum() < labels.size
    return float(labels.mean()), float(auc(labels, probabilities)) if both else None


def synth(
    output: Annotated[Path, typer.Argument(help="File to write; .gz by name is compressed.")],
    rows: Annotated[int, typer.Option(min=1, help="Lines.")] = 1_000_000,
    preset: Annotated[str, typer.Option(help="kaggle or terabyte.")] = "kaggle",
    scale: Annotated[float, typer.Option(help="Multiplies the cardinalities.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Another seed is another world.")] = 0,
    start: Annotated[int, typer.Option(min=0, help="First row, to go on with a log.")] = 0,
    labelled: Annotated[
        bool, typer.Option("--labelled/--unlabelled", help="With or without the label column.")
    ] = True,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Generate a click log in Criteo's format, with a known best reachable AUC.

    Columns, missing values, ids and click rate are distributed as in the real logs; clicks follow
    a planted model.

    Examples:

        robe synth clicks.tsv --rows 1000000

        robe synth day_0.gz --preset terabyte --rows 5000000 --seed 7

        robe synth new.tsv --rows 1000 --start 1000000 --unlabelled
    """
    with loading():
        from data_tools.synthetic.generator import Generator

    check_output_file(output, overwrite)
    generator = Generator(preset=preset, scale=scale, seed=seed)
    with tracking(f"writing {output.name}", quiet) as progress:
        generator.write(output, rows, start=start, labelled=labelled, progress=progress)
    stop = start + min(rows, CEILING_ROWS)
    rate, best = ceiling(generator, start, stop)
    console.print(f"{output}: {rows:,} rows, {output.stat().st_size / 1e6:,.1f} MB")
    which = "these rows" if stop == start + rows else f"the first {CEILING_ROWS:,} rows"
    console.print(f"click rate of {which} {rate:.4f}{'' if labelled else ' (not in the file)'}")
    reach = "not defined: all are alike" if best is None else f"{best:.4f}"
    console.print(f"best reachable AUC on {which} (of the true probabilities) {reach}")


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip()) if text else ()


def ingest(
    sources: Annotated[
        list[str],
        typer.Argument(help="Logs: text, CSV (also compressed) or Parquet; paths or s3://..."),
    ],
    output: Annotated[str, typer.Option("--output", "-o", help="Folder of the dataset.")],
    format: Annotated[str, typer.Option(help="auto, criteo, csv or parquet.")] = "auto",
    separator: Annotated[
        str | None,
        typer.Option(help="Of a CSV's fields: a character, or tab; default: what its header has."),
    ] = None,
    on_error: Annotated[str, typer.Option(help="At a bad line: stop or skip.")] = "stop",
    dense_transform: Annotated[
        str, typer.Option(help="log1p, none, log3 (log(x+3)) or log-squared.")
    ] = "log1p",
    max_ind_range: Annotated[
        int | None, typer.Option(min=1, help="Ids modulo this; MLPerf has 40000000.")
    ] = None,
    ids: Annotated[
        str, typer.Option(help="raw, or appearance: numbered as they first appear (two passes).")
    ] = "raw",
    min_count: Annotated[int, typer.Option(min=1, help="Rarer ids become one (two passes).")] = 1,
    vocabulary: Annotated[
        Path | None, typer.Option(help="Dataset whose known ids to use instead of counting.")
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="Label column; default label, which a log may lack.")
    ] = None,
    dense: Annotated[
        str | None, typer.Option(help="Numeric columns of another log, a,b,c; default Criteo's.")
    ] = None,
    categorical: Annotated[str | None, typer.Option(help="Its id columns, a,b,c.")] = None,
    file_format: Annotated[str, typer.Option(help="Of the shards: arrow or parquet.")] = "arrow",
    compression: Annotated[str, typer.Option(help="Of the shards: none, lz4 or zstd.")] = "none",
    shard_bytes: Annotated[
        int | None, typer.Option(min=1, help="Text per shard; default 16 to 128 MiB.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Default: all cores.")] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            help="threads, local (a Dask cluster here; default for several files where Dask is "
            "installed) or tcp://HOST:PORT."
        ),
    ] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Read click logs into a dataset: a folder of Arrow files with a manifest.

    Criteo's logs (Kaggle and Terabyte, plain or compressed, with or without labels) need no
    options. Other logs, as CSV or Parquet, are described by their columns. Files that differ only
    in their numbers and come as the shell sorts them are taken in the order of the numbers. A bad
    line stops with its file, line number and reason; with --on-error skip it is counted, and the
    first hundred are kept in rejects.jsonl. Killed or stopped, the same command resumes
    where it was.

    Examples:

        robe ingest train.txt -o data

        robe ingest day_0.gz day_1.gz -o data --on-error skip

        robe ingest log.parquet -o data --label clicked --dense age,price --categorical user,item

        robe ingest log.tsv -o data --separator tab --dense age --categorical user,item

        robe ingest day_{0..23}.gz -o s3://bucket/data --scheduler tcp://10.0.0.1:8786
    """
    with loading():
        from data_tools import CRITEO, Schema
        from data_tools import ingest as ingest_logs
        from data_tools.sources.source_order import in_numeric_order

    schema = CRITEO
    if dense or categorical:
        schema = Schema(label or "label", _names(dense), _names(categorical))
    elif label:
        schema = Schema(label, CRITEO.dense, CRITEO.categorical)
    if ids == "appearance" or min_count > 1:
        console.print(TWO_PASSES if vocabulary is None else "ids become those of the vocabulary")
    given, sources = sources, in_numeric_order(sources)
    if sources != given:
        console.print(f"taken in the order of their numbers: {', '.join(sources)}")
    with _explaining_interrupts(), tracking("reading", quiet, unit="bytes") as progress:
        manifest = ingest_logs(
            sources,
            output,
            schema=schema,
            format=format,
            separator=SEPARATORS.get(separator, separator) if separator else None,
            on_error=on_error,
            dense_transform=dense_transform,
            max_ind_range=max_ind_range,
            ids=ids,
            min_count=min_count,
            vocabulary=vocabulary,
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


SEPARATORS = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "pipe": "|"}


@contextmanager
def _explaining_interrupts() -> Iterator[None]:
    """Say at Ctrl-C what is kept."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        console.print("; ".join(["interrupted", *getattr(interrupt, "__notes__", ())]))
        raise typer.Exit(130) from None


TWO_PASSES = (
    "two passes over the sources, to count the ids first: about twice the time, and for the counts "
    "about 16 MB of disk per million rows until it is done"
)


def _scheduler(num_sources: int) -> str:
    """A local cluster for several files, where Dask is there."""
    return "local" if num_sources > 1 and importlib.util.find_spec("distributed") else "threads"


def show(path: str | Path, manifest: "Manifest") -> None:
    """Print what a dataset holds, in a few lines."""
    files = len(manifest.shards)
    kind = manifest.options.file_format.capitalize()
    console.print(f"{path}: {manifest.rows:,} rows in {files} {kind} file{'s' * (files != 1)}")
    if not manifest.labelled:
        console.print("no labels: these rows can be scored, not trained on")
    elif manifest.positives is not None and manifest.rows:
        console.print(f"click rate {manifest.positives / manifest.rows:.4f}")
    if manifest.vocabulary:
        known = sum(file.rows for file in manifest.vocabulary)
        console.print(f"{known:,} known ids in {len(manifest.vocabulary)} columns")
    if manifest.rejected:
        console.print(
            f"{manifest.rejected:,} bad lines left out, the first of them in "
            f"{path}/{manifest.folder}/{REJECTS_NAME}"
        )


data = typer.Typer(help="What a dataset holds, and whether it is intact.", no_args_is_help=True)


@data.command("info")
def info(path: DataPath) -> None:
    """Show what a dataset holds, where it came from and how it was prepared.

    Examples:

        robe data info data
    """
    with loading():
        from data_tools import Dataset

    manifest = Dataset(path).manifest
    show(path, manifest)
    size = sum(file.bytes for file in (*manifest.shards, *manifest.vocabulary))
    console.print(f"{size / 1e6:,.1f} MB in {path}/{manifest.folder}, by {manifest.created_by}")
    schema = manifest.schema
    console.print(
        f"{schema.num_dense} dense columns ({', '.join(schema.dense)}), {schema.num_categorical} "
        f"categorical ({', '.join(schema.categorical)}) of {manifest.index_dtype}"
    )
    for name, value in asdict(manifest.options).items():
        if value is not None:
            console.print(f"{name.replace('_', ' ')}: {value}")
    for source, rows in zip(manifest.sources, manifest.rows_per_source(), strict=True):
        console.print(f"from {source.name}, {source.bytes:,} bytes: {rows:,} rows")


@data.command("verify")
def verify(path: DataPath, quiet: Quiet = False) -> None:
    """Read every file of a dataset and compare it with the manifest.

    Says of each file that is missing, cut off, changed, of another dataset or not listed what is
    wrong, and then ends with status 1.

    Examples:

        robe data verify data
    """
    with loading():
        from data_tools import verify as verify_files

    with tracking("reading", quiet, unit="bytes") as progress:
        problems = verify_files(path, progress)
    for problem in problems:
        console.print(problem)
    if problems:
        count = f"{len(problems)} problem{'s' * (len(problems) != 1)}"
        console.print(f"{count}; restore these files, or ingest the log again")
        raise typer.Exit(1)
    console.print(f"{path}: all files are as they were written")
