"""From click logs to a dataset: a folder of shards that a manifest makes complete."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from data_tools.criteo_text import read_criteo
from data_tools.errors import ParseError
from data_tools.manifest import Manifest, Options, Source, created_by
from data_tools.rejects import Rejects
from data_tools.schema import CRITEO, Schema
from data_tools.shards import SHARD_ROWS, ShardWriter
from data_tools.staging import publish, staging
from data_tools.tables import read_table
from data_tools.text_reader import BLOCK_BYTES

GZIP_MAGIC = b"\x1f\x8b"
Progress = Callable[[int, int, int], None]


def ingest(
    sources: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    schema: Schema = CRITEO,
    format: str = "auto",
    on_error: str = "stop",
    dense_transform: str = "log1p",
    labelled: bool | None = None,
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
        labelled or all unlabelled: Criteo text by the number of fields that most of a file's first
        lines have, the others by whether they have the label column. One line of a CSV is one row:
        no field may hold a line end. Criteo text cannot be mixed with CSV or Parquet, whose ids are
        made differently.
    output : path
        Made if need be; what else lies in it is left alone. One ingest at a time.
    schema : Schema
        The columns: of Criteo text in their order, of CSV and Parquet by name. The id of a Criteo
        field is its hexadecimal value. In CSV and Parquet alike the id of an integer is its value
        modulo 2**64, also where it is written as text in its plain form (`7`, `-1`; not `007`, not
        `+7`) and fits 64 bits; of other text the first eight bytes of its BLAKE2b hash,
        little-endian; of an empty field 0.
    format : {"auto", "criteo", "csv", "parquet"}
        "auto" goes by the name: `.csv`, `.csv.gz`, `.parquet`, and Criteo text for all others.
    on_error : {"stop", "skip"}
        With "skip" bad lines are counted, and the first hundred kept in `rejects.jsonl`. A damaged
        file, and an empty Criteo text, stop also then.
    dense_transform : {"log1p", "none"}
        log(max(x, 0) + 1), or x. An empty field (null, NaN) is 0 in both.
    labelled : bool, optional
        True or False: every source must have labels, or none may; another one is an error. None:
        the first source decides.
    progress : callable(bytes_done, bytes_total, rows), optional
        Called after every block with the bytes of all sources as they lie on disk.
    overwrite : bool
        Replace a dataset in `output`; no other files are ever replaced.
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
    FileExistsError : `output` holds a dataset, and `overwrite` is false; it holds other files of
        the names that an ingest writes; another ingest is writing to it; or it is a file.
    ValueError : no sources, one that is no regular file, an unknown option, or Criteo text mixed
        with other formats.
    """
    options = Options(format, dense_transform, on_error)
    files = _sources(sources, format)
    folder = Path(output)
    index_dtype = "uint32" if files[0][1] == "criteo" else "uint64"
    with (
        staging(folder, overwrite) as staged,
        ShardWriter(staged, schema, index_dtype, shard_rows, labelled) as writer,
    ):
        rejects = Rejects(skip=on_error == "skip")
        _read_all(files, writer, rejects, dense_transform == "log1p", progress, block_bytes)
        writer.close()
        rejects.save(staged)
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
        publish(staged, folder, manifest)
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
        if not path.exists():
            raise FileNotFoundError(f"there is no source {path}")
        if not path.is_file():
            raise ValueError(
                f"the source {path} is not a regular file, and a pipe cannot be read twice; save "
                "it as a file first"
            )
        kind = _kind(path) if format == "auto" else format
        if kind != "parquet" and path.suffix.lower() != ".gz" and _is_gzip(path):
            raise ParseError(
                path, 1, f"the file is compressed by gzip; rename it to {path.name}.gz"
            )
        files.append((path, kind))
    if len({kind == "criteo" for _, kind in files}) > 1:
        raise ValueError(
            "Criteo text and tables (CSV, Parquet) are mixed, but make different ids of a text; "
            "ingest them into separate folders, or name the format"
        )
    return files


def _is_gzip(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(len(GZIP_MAGIC)) == GZIP_MAGIC


def _kind(path: Path) -> str:
    """Format of a file by its name."""
    name = path.name.lower().removesuffix(".gz")
    if name.endswith(".csv"):
        return "csv"
    return "parquet" if name.endswith(".parquet") else "criteo"
