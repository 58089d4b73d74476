"""Criteo text to dataset, against polars, duckdb, pyarrow.csv and gzip; loading; peak memory.

python perf/bench_ingest.py
python perf/bench_ingest.py --memory
"""

import argparse
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data_tools import Batch, Dataset
from perf.harness import ingest_memory, machine, markdown
from perf.harness.ingest_memory import empty
from perf.harness.loading import ingest_race, loading, loading_lists
from perf.harness.race import Contender, Row, Workload
from perf.peers import ingest as others
from perf.peers.ingest import Log
from robe_numba.formatting import format_bytes, markdown_table

PACKAGES = ("numba", "numpy", "pyarrow", "isal", "polars", "duckdb")
NOTES = """\
- MB/s count bytes of text. All keep the order of the rows; results are compared with ours.
- Ours writes a dataset: it checks every field, computes checksums and waits for the disk (fsync).
  The others leave one file in the page cache.
- pyarrow.csv parses ids as text and does not convert them; ours makes the final numbers.
- Loading uses one processor for reading, shuffling and a caller that ignores the rows: in order,
  mapped rows are not even read from memory.
- Lists: pyarrow takes the rows of the same windows; "tables" looks lists of single ids up in stored
  tables, as MLPerf's release does, made before the time is taken.
"""
JOBS = (
    ("text", "arrow", "none"),
    ("text", "arrow", "lz4"),
    ("text", "parquet", "lz4"),
    ("text", "parquet", "zstd"),
    (".gz", "arrow", "lz4"),
    (".gz", "parquet", "zstd"),
)


def jobs(log: Log, folder: Path, options: argparse.Namespace) -> Iterator[Row]:
    """The whole job: text to files of the same format and compression."""
    output = folder / "output"
    for kind, file_format, compression in JOBS:
        source = log.gz if kind == ".gz" else log.text
        name = f"{kind} to {file_format.capitalize()}, {compression}"
        work = Workload("ingest", "whole job", name, log.rows, bytes=log.bytes)
        found = others.contenders(source, output, file_format, compression, options.threads)
        yield from ingest_race(work, warmed(found, output), options, partial(empty, output))
    shutil.rmtree(output)


def warmed(contenders: Sequence[Contender], output: Path) -> list[Contender]:
    """Run each once, ours first, compare the rows, and note the bytes written."""
    found = []
    for contender in contenders:
        empty(output)
        result = contender.run() if contender.run else None
        if contender.role == "ours":
            dataset = Dataset(output / "ours")
            (expected,) = dataset.split("all").batches(dataset.num_rows, threads=0)
        elif isinstance(result, Path):
            others.check_written(result, expected)
        written = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
        found.append(replace(contender, output_bytes=written or None))
    return found


def parsing(log: Log, folder: Path, options: argparse.Namespace) -> Iterator[Row]:
    """Parsing alone, of a file in the page cache, into memory."""
    ours = partial(others.parse_all, log, options.threads)
    pyarrow = partial(others.by_pyarrow, log.text)
    parts = ours()
    rows = Batch(
        *(np.concatenate(arrays) for arrays in zip(*(part[:3] for part in parts), strict=True))
    )
    others.check_parsed(pyarrow(), rows)
    del parts, rows
    contenders = [Contender("robe", ours), Contender("pyarrow.csv", pyarrow, "peer")]
    work = Workload("ingest", "parsing", "text to memory", log.rows, bytes=log.bytes)
    yield from ingest_race(work, contenders, options)


def inflating(log: Log, folder: Path, options: argparse.Namespace) -> Iterator[Row]:
    """Inflating alone, to the end of the text."""
    ours, python = partial(others.inflate, log.gz), partial(others.by_gzip, log.gz)
    assert ours() == python() == log.bytes
    contenders = [Contender("robe", ours), Contender("gzip", python, "peer")]
    work = Workload("ingest", "inflating", ".gz to text", log.rows, bytes=log.bytes)
    yield from ingest_race(work, contenders, options)


def table(rows: Sequence[Row]) -> str:
    """A line for each of our contenders, and a column for each peer."""
    names = list(dict.fromkeys(row.contender for row in rows if row.role == "peer"))
    header = [
        "what",
        "ms",
        "M rows/s (lists: ids)",
        "MB/s",
        *(f"{name}, ms (times ours)" for name in names),
    ]
    header.append("MB written (ours, others)")
    lines = []
    for row in rows:
        if row.role != "ours" or row.ms is None:
            continue
        others = {other.contender: other for other in markdown.same_race(row, rows)}
        speed = f"{row.bytes / row.ms / 1e3:,.0f}" if row.bytes else ""
        cells = [f"{row.shape}, {row.work}", milliseconds(row), f"{row.items / row.ms / 1e3:.3g}"]
        cells += [speed, *(versus(row, others.get(name)) for name in names)]
        sizes = [r.output_bytes for r in (row, *others.values()) if r.output_bytes]
        lines.append([*cells, ", ".join(f"{size / 1e6:.0f}" for size in sizes)])
    notes = dict.fromkeys(f"{row.contender} {row.note}." for row in rows if row.note)
    return "\n".join([markdown_table(header, lines), "", *notes, *([""] if notes else []), NOTES])


def versus(row: Row, other: Row | None) -> str:
    """The time of a peer, and how many times as fast ours is."""
    if other is None:
        return ""
    if other.ms is None or row.ms is None:
        return "absent"
    return f"{milliseconds(other)} ({other.ms / row.ms:.2f}x)"


def milliseconds(row: Row) -> str:
    """The time, with three digits or more."""
    if row.ms is None:
        return "absent"
    return f"{row.ms:,.0f}" if row.ms >= 100 else f"{row.ms:.1f}"


PARTS = {
    "jobs": jobs,
    "parsing": parsing,
    "inflating": inflating,
    "loading": loading,
    "lists": loading_lists,
}


def parse_options() -> argparse.Namespace:
    """The command line."""
    processors = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    )
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--threads", type=int, default=processors, help="of every contender")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--part", choices=PARTS, action="append", help="may be repeated")
    parser.add_argument("--memory", action="store_true", help="measure peak memory only")
    parser.add_argument("--folder", type=Path, help="work there and keep the log")
    parser.add_argument("--json", type=Path, help="write the results there")
    options = parser.parse_args()
    for name in ("rows", "threads", "repeats"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} is {getattr(options, name)}; it must be at least 1")
    return options


def about(options: argparse.Namespace, log: Log) -> dict[str, Any]:
    """Where and how figures were measured."""
    return {
        "machine": machine.describe(),
        "device": "cpu",
        "threads": options.threads,
        "repeats": options.repeats,
        "ids": "Kaggle-like",
        "rows": log.rows,
        "text_bytes": log.bytes,
        "gz_bytes": log.gz.stat().st_size,
        "versions": {"python": platform.python_version()}
        | {name: others.version(name) for name in PACKAGES},
    }


def main() -> None:
    """Measure, print a table, write the figures."""
    options = parse_options()
    others.set_threads(options.threads)
    if options.folder:
        options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        folder = Path(temporary)
        log = others.make_log(options.folder or folder, options.rows)
        result: dict[str, Any] = {"bench": "ingest", "about": about(options, log)}
        print(markdown.heading(result["about"]))
        print(f"{log.rows:,} rows, {format_bytes(log.bytes, 3)} of text.\n", flush=True)
        if options.memory:
            result["memory"] = ingest_memory.measure(log, folder)
            print(ingest_memory.table_of(result["memory"]))
        else:
            rows: list[Row] = []
            for name in options.part or PARTS:
                print(f"ingest {name} ...", flush=True)
                rows.extend(PARTS[name](log, folder, options))
            result["rows"] = [asdict(row) for row in rows]
            print(table(rows))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
