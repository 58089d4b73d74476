"""`robe data`: show what a dataset contains, and check that it is intact."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from data_tools.format.names import REJECTS_NAME
from robe_numba.cli import loading
from robe_numba.cli.arguments import DataPath
from robe_numba.cli.console import console
from robe_numba.cli.progress import Quiet, tracking
from robe_numba.formatting import format_bytes

if TYPE_CHECKING:
    from data_tools import Manifest


def show(path: str | Path, manifest: "Manifest") -> None:
    """Summarise a dataset in a few lines."""
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
    for name, facts, mean in zip(
        manifest.schema.multi_hot, manifest.lists, manifest.ids_per_row, strict=True
    ):
        console.print(f"{name}: {mean:.2f} ids per row, at most {facts.longest:,}")
        if facts.shortened:
            console.print(
                f"{name}: lists cut to max length {manifest.options.max_length:,}: "
                f"{facts.shortened:,}"
            )
    if manifest.options.multi_hot_sizes:
        total = sum(manifest.options.multi_hot_sizes)
        console.print(f"lists made from single ids: {total:,} ids per row in all")
    if manifest.rejected:
        console.print(
            f"{manifest.rejected:,} bad lines skipped, the first of them in "
            f"{path}/{manifest.folder}/{REJECTS_NAME}"
        )


data = typer.Typer(
    help="Show what a dataset contains, and check that it is intact.", no_args_is_help=True
)


@data.command("info")
def info(path: DataPath) -> None:
    """Show what a dataset contains, where it came from and how it was prepared.

    Examples:

        robe data info data
    """
    with loading():
        from data_tools import Dataset

    manifest = Dataset(path).manifest
    show(path, manifest)
    size = sum(file.bytes for file in (*manifest.shards, *manifest.vocabulary))
    console.print(f"{format_bytes(size)} in {path}/{manifest.folder}, by {manifest.created_by}")
    schema = manifest.schema
    console.print(
        f"{schema.num_dense} dense columns ({', '.join(schema.dense)}), {schema.num_categorical} "
        f"categorical ({', '.join(schema.categorical)}) of {manifest.index_dtype}"
    )
    if schema.multi_hot:
        columns = ", ".join(f"{n} weighted by {w}" if w else n for n, w in schema.lists)
        console.print(f"{schema.num_multi_hot} multi-hot columns ({columns})")
    for name, value in asdict(manifest.options).items():
        if value is not None:
            console.print(f"{name.replace('_', ' ')}: {value}")
    for source, rows in zip(manifest.sources, manifest.rows_per_source(), strict=True):
        console.print(f"from {source.name}, {source.bytes:,} bytes: {rows:,} rows")


@data.command("verify")
def verify(path: DataPath, quiet: Quiet = False) -> None:
    """Read every file of a dataset and compare it with the manifest.

    Names each file that is missing, truncated, changed, of another dataset or not listed, and then
    exits with status 1.

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
