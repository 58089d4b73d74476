"""From click logs to a dataset: a folder of shards that a manifest makes complete.

Everything is written into a subfolder and moved into place when it is whole, the manifest last.
So an ingest that fails or is killed never leaves a folder that could be taken for a dataset, and
`overwrite` keeps the old dataset until the new one is ready.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from data_tools.criteo_text import read_criteo
from data_tools.manifest import MANIFEST_NAME, Manifest, Options, Source, created_by
from data_tools.rejects import REJECTS_NAME, Rejects
from data_tools.schema import CRITEO, Schema
from data_tools.shards import SHARD_ROWS, ShardWriter
from data_tools.tables import read_table
from data_tools.text_reader import BLOCK_BYTES

STAGING_NAME = ".unfinished"
Progress = Callable[[int, int, int], None]


def ingest(
    sources: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    schema: Schema = CRITEO,
    format: str = "auto",
    on_error: str = "stop",
    dense_transform: str = "log1p",
    progress: Progress | None = None,
    overwrite: bool = False,
    block_bytes: int = BLOCK_BYTES,
    shard_rows: int = SHARD_ROWS,
) -> Manifest:
    """Read click logs, in the order given, into a dataset in the folder `output`.

    The same sources and options give the same shards, byte for byte.

    Parameters
    ----------
    sources : path or paths
        Criteo text, CSV with a header, or Parquet; text and CSV also gzipped (`.gz`). All of them
        labelled or all unlabelled: Criteo text by the number of fields of a file's first line, the
        others by whether they have the label column. Criteo text cannot be mixed with CSV or
        Parquet, whose ids are made differently.
    output : path
        Made if need be; what else lies in it is left alone. One ingest at a time.
    schema : Schema
        The columns: of Criteo text in their order, of CSV and Parquet by name. The id of a Criteo
        field is its hexadecimal value; of an integer its value; of other text the first eight
        bytes of its BLAKE2b hash, little-endian; of an empty field 0.
    format : {"auto", "criteo", "csv", "parquet"}
        "auto" goes by the name: `.csv`, `.csv.gz`, `.parquet`, and Criteo text for all others.
    on_error : {"stop", "skip"}
        With "skip" bad lines are counted, and the first hundred kept in `rejects.jsonl`. A damaged
        file, and an empty Criteo text, stop also then.
    dense_transform : {"log1p", "none"}
        log(max(x, 0) + 1), or x. An empty field (null, NaN) is 0 in both.
    progress : callable(bytes_done, bytes_total, rows), optional
        Called after every block with the bytes of all sources as they lie on disk.
    overwrite : bool
        Replace a dataset in `output`.
    block_bytes : int
        Bytes of Criteo text to read at a time; the result does not depend on it.
    shard_rows : int
        Rows per file of the dataset.

    Returns
    -------
    Manifest : what was written.

    Raises
    ------
    ParseError : a bad line or file; nothing is left behind.
    FileNotFoundError : a source does not exist.
    FileExistsError : `output` holds a dataset, and `overwrite` is false; or it is a file.
    ValueError : no sources, an unknown option, or Criteo text mixed with other formats.
    """
    options = Options(format, dense_transform, on_error)
    files = _sources(sources, format)
    folder = Path(output)
    _check_output(folder, overwrite)
    index_dtype = "uint32" if files[0][1] == "criteo" else "uint64"
    with (
        _staging(folder) as staging,
        ShardWriter(staging, schema, index_dtype, shard_rows) as writer,
    ):
        rejects = Rejects(skip=on_error == "skip")
        _read_all(files, writer, rejects, dense_transform == "log1p", progress, block_bytes)
        writer.close()
        rejects.save(staging)
        manifest = Manifest(
            schema=schema,
            sources=tuple(Source(path.name, path.stat().st_size) for path, _ in files),
            options=options,
            rows=writer.rows,
            positives=writer.positives if writer.labelled else None,
            rejected=rejects.count,
            labelled=bool(writer.labelled),
            index_dtype=index_dtype,
            shards=tuple(writer.shards),
            created_by=created_by(),
        )
        _publish(staging, folder, manifest)
    return manifest


def _read_all(
    files: list[tuple[Path, str]],
    writer: ShardWriter,
    rejects: Rejects,
    log1p: bool,
    progress: Progress | None,
    block_bytes: int,
) -> None:
    """Read every source into the writer, telling the progress over all of them."""
    total = sum(path.stat().st_size for path, _ in files)
    before = 0

    def report(bytes_done: int) -> None:
        if progress:
            progress(before + bytes_done, total, writer.rows)

    for path, kind in files:
        if kind == "criteo":
            read_criteo(path, writer, rejects, log1p=log1p, report=report, block_bytes=block_bytes)
        else:
            read_table(path, kind, writer, rejects, log1p=log1p, report=report)
        before += path.stat().st_size
        report(0)


def _sources(sources: str | Path | Sequence[str | Path], format: str) -> list[tuple[Path, str]]:
    """Each source with its kind; all exist, and text is not mixed with tables."""
    paths = [sources] if isinstance(sources, str | os.PathLike) else list(sources)
    if not paths:
        raise ValueError("there are no sources; give at least one file")
    files = []
    for path in map(Path, paths):
        if path.is_dir():
            raise IsADirectoryError(f"the source {path} is a folder; name the files in it")
        if not path.is_file():
            raise FileNotFoundError(f"there is no source {path}")
        files.append((path, _kind(path) if format == "auto" else format))
    if len({kind == "criteo" for _, kind in files}) > 1:
        raise ValueError(
            "Criteo text and tables (CSV, Parquet) are mixed, but make different ids of a text; "
            "ingest them into separate folders, or name the format"
        )
    return files


def _kind(path: Path) -> str:
    """Format of a file by its name."""
    name = path.name.lower().removesuffix(".gz")
    if name.endswith(".csv"):
        return "csv"
    return "parquet" if name.endswith(".parquet") else "criteo"


def _check_output(folder: Path, overwrite: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; name a folder for the dataset")
    if (folder / MANIFEST_NAME).exists() and not overwrite:
        raise FileExistsError(
            f"{folder} holds a finished dataset; choose another folder, or overwrite it "
            "(overwrite=True, --overwrite)"
        )


@contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """An empty subfolder to write to; afterwards it is gone, and `folder` too if new and empty."""
    created = not folder.exists()
    staging = folder / STAGING_NAME
    if staging.exists():  # of an ingest that was killed
        shutil.rmtree(staging)
    staging.mkdir(parents=True)
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if created and not any(folder.iterdir()):
            folder.rmdir()


def _publish(staging: Path, folder: Path, manifest: Manifest) -> None:
    """Move the finished files into `folder`, in the place of an older dataset's."""
    # Without its manifest the old dataset is none, so the files may change one by one.
    (folder / MANIFEST_NAME).unlink(missing_ok=True)
    for old in [*folder.glob("part-[0-9]*.arrow"), folder / REJECTS_NAME]:
        old.unlink(missing_ok=True)
    for new in staging.iterdir():
        os.replace(new, folder / new.name)
    manifest.save(folder)
