"""The log of bench_ingest.py and its readers: polars, duckdb, pyarrow, gzip and our parser."""

import gzip
import importlib.metadata
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.ipc
import pyarrow.parquet

from data_tools import ingest
from data_tools.batch import Batch
from data_tools.schema import CRITEO
from data_tools.sources.criteo.kernels import OK
from data_tools.sources.criteo.parser import Parser, transform_dense
from data_tools.sources.lines import LineBlocks, open_text
from data_tools.synthetic.generator import Generator
from perf.harness.race import Contender

LEVEL = 1  # of zstd, for all
READ_BYTES = 1 << 20
SHORTEST_LINE = 1 + len(CRITEO.names)  # bytes: a label, and a TAB or LF after every field
DENSE, CATEGORICAL = CRITEO.dense, CRITEO.categorical


class Log(NamedTuple):
    """A text file of Criteo rows, and the same gzipped."""

    text: Path
    gz: Path
    rows: int
    bytes: int  # of the text


def make_log(folder: Path, rows: int) -> Log:
    """Generate a log, and the same gzipped, unless the folder has them."""
    text, gz = folder / f"log-{rows}.tsv", folder / f"log-{rows}.tsv.gz"
    if not text.exists():
        Generator(preset="kaggle").write(text, rows)
    if not gz.exists():
        unfinished = folder / "unfinished.gz"
        with text.open("rb") as file, gzip.open(unfinished, "wb", compresslevel=6) as packed:
            shutil.copyfileobj(file, packed, 1 << 20)
        unfinished.replace(gz)
    return Log(text, gz, rows, text.stat().st_size)


def set_threads(threads: int) -> None:
    """Set the threads of polars, which reads this when imported, and of pyarrow."""
    os.environ["POLARS_MAX_THREADS"] = str(threads)
    pa.set_cpu_count(threads)


def version(name: str) -> str | None:
    """Version of a package; None if it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def peer(name: str, run: Callable[[], object]) -> Contender:
    """Another program, if it is installed."""
    if version(name) is None:
        return Contender(name, None, "peer", note=f"absent: {name} is not installed")
    return Contender(name, run, "peer")


def contenders(
    source: Path, output: Path, file_format: str, compression: str, threads: int
) -> list[Contender]:
    """Contenders that can write this format; ours comes first and writes the folder "ours"."""
    kind: dict[str, Any] = {"file_format": file_format, "compression": compression}
    ours = partial(ingest, source, output / "ours", threads=threads, **kind)
    found = [
        Contender("robe", ours),
        peer("polars", partial(by_polars, source, output, **kind)),
    ]
    if file_format == "parquet":
        run = partial(by_duckdb, source, output, compression, threads)
        found.append(peer("duckdb", run))
    return found


def by_polars(source: Path, output: Path, file_format: str, compression: str) -> Path:
    """Write one file with polars' streaming engine."""
    import polars as pl

    types: dict[str, Any] = {CRITEO.label: pl.UInt8}
    types |= dict.fromkeys(DENSE, pl.Int64) | dict.fromkeys(CATEGORICAL, pl.String)
    rows = pl.scan_csv(source, separator="\t", has_header=False, schema=types, quote_char=None)
    numbers = [pl.col(c).fill_null(0).clip(0).cast(pl.Float32).log1p() for c in DENSE]
    ids = [pl.col(c).str.to_integer(base=16, dtype=pl.UInt32).fill_null(0) for c in CATEGORICAL]
    rows = rows.select(pl.col(CRITEO.label).cast(pl.Float32), *numbers, *ids)
    path = output / f"polars.{file_format}"
    if file_format == "arrow":
        rows.sink_ipc(path, compression="uncompressed" if compression == "none" else compression)
    else:
        level = LEVEL if compression == "zstd" else None
        rows.sink_parquet(path, compression=compression, compression_level=level, statistics=False)
    return path


@cache
def _duckdb(threads: int) -> Any:
    import duckdb

    connection = duckdb.connect()
    connection.execute(f"set threads = {threads}")
    return connection


def by_duckdb(source: Path, output: Path, compression: str, threads: int) -> Path:
    """Write one Parquet file with duckdb."""
    types = {CRITEO.label: "utinyint"}
    types |= dict.fromkeys(DENSE, "bigint") | dict.fromkeys(CATEGORICAL, "varchar")
    columns = ", ".join(f"'{name}': '{kind}'" for name, kind in types.items())
    chosen = [f"{CRITEO.label}::float as {CRITEO.label}"]
    chosen += [f"ln(greatest(coalesce({c}, 0), 0) + 1)::float as {c}" for c in DENSE]
    chosen += [f"coalesce(('0x' || {c})::uinteger, 0)::uinteger as {c}" for c in CATEGORICAL]
    path = output / "duckdb.parquet"
    codec = "lz4_raw" if compression == "lz4" else compression
    level = f", compression_level {LEVEL}" if compression == "zstd" else ""
    _duckdb(threads).execute(
        f"copy (select {', '.join(chosen)} from read_csv('{source}', auto_detect = false, "
        f"delim = '\t', header = false, columns = {{{columns}}}, quote = '', escape = '')) "
        f"to '{path}' (format parquet, compression {codec}{level})"
    )
    return path


def by_pyarrow(source: Path) -> pa.Table:
    """Parse a whole file; ids stay text, and integers are not transformed."""
    types = {CRITEO.label: pa.uint8()}
    types |= dict.fromkeys(DENSE, pa.int64()) | dict.fromkeys(CATEGORICAL, pa.string())
    return pyarrow.csv.read_csv(
        source,
        read_options=pyarrow.csv.ReadOptions(column_names=list(types)),
        parse_options=pyarrow.csv.ParseOptions(delimiter="\t", quote_char=False),
        convert_options=pyarrow.csv.ConvertOptions(column_types=types),
    )


def by_gzip(source: Path) -> int:
    """Inflate a file; the number of bytes of its text."""
    with gzip.open(source) as file:
        return read_through(file)


def read_through(file: Any) -> int:
    """Read a file to its end; the number of bytes."""
    buffer = bytearray(READ_BYTES)
    total = 0
    while count := file.readinto(buffer):
        total += count
    return total


def parse_all(log: Log, threads: int) -> list[Batch]:
    """Parse all rows of a log, one part of the file per thread."""
    parser = Parser(CRITEO, True, "log1p")
    cuts = np.linspace(0, log.bytes, threads + 1).astype(int).tolist()
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(partial(parse_part, parser, log.text), cuts[:-1], cuts[1:]))


def parse_part(parser: Parser, path: Path, begin: int, end: int) -> Batch:
    """Parse the lines that begin in some part of a file."""
    room = (end - begin) // SHORTEST_LINE + 2  # memory that is never touched costs nothing
    labels = np.empty(room, np.float32)
    dense = np.empty((room, CRITEO.num_dense), np.float32)
    indices = np.empty((room, CRITEO.num_categorical), np.uint32)
    done = 0
    for block in LineBlocks(str(path), begin=begin, end=end):
        parsed = parser.parse(block.lines, 0, labels, dense, indices, done)
        assert (parsed.code, parsed.position) == (OK, block.lines.size), parsed
        done += parsed.rows
    return Batch(labels[:done], dense[:done], indices[:done])


def inflate(path: Path) -> int:
    """Inflate a gzipped text as ingest does; the number of bytes."""
    opened = open_text(str(path))
    with opened.raw, opened.text:
        return read_through(opened.text)


def check_written(path: Path, ours: Batch) -> None:
    """Raise AssertionError unless a file holds the same rows in the same order."""
    if path.suffix == ".arrow":
        table = pyarrow.ipc.open_file(pa.memory_map(str(path))).read_all()
    else:
        table = pyarrow.parquet.read_table(path)
    assert table.num_rows == len(ours.dense), f"{path.name} has {table.num_rows} rows"
    np.testing.assert_array_equal(table[CRITEO.label].to_numpy(), ours.labels)
    for number, name in enumerate(DENSE):  # others compute logarithms in float32 or float64
        np.testing.assert_allclose(table[name].to_numpy(), ours.dense[:, number], rtol=1e-5)
    for number, name in enumerate(CATEGORICAL):
        assert table[name].type == pa.uint32(), table[name].type
        np.testing.assert_array_equal(table[name].to_numpy(), ours.indices[:, number])


def check_parsed(table: pa.Table, ours: Batch) -> None:
    """Raise AssertionError unless pyarrow.csv read the same; ids are compared every 25th row."""
    np.testing.assert_array_equal(table[CRITEO.label].to_numpy(), ours.labels)
    for number, name in enumerate(DENSE):
        values = transform_dense(table[name].to_numpy().astype(np.float64), "log1p")
        np.testing.assert_array_equal(values, ours.dense[:, number])
    rows = np.arange(0, table.num_rows, 25)
    for number, name in enumerate(CATEGORICAL):
        texts = table[name].take(rows).to_pylist()
        ids = np.array([int(text or "0", 16) for text in texts], np.uint32)
        np.testing.assert_array_equal(ids, ours.indices[rows, number])
