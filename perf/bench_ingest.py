"""Criteo text to dataset, beside polars, duckdb, pyarrow.csv and gzip; loading; peak memory.

python perf/bench_ingest.py
python perf/bench_ingest.py --memory
"""

import argparse
import gc
import json
import multiprocessing
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data_tools import Batch, Dataset, ingest
from data_tools.synthetic.generator import Generator
from perf.harness import machine, markdown
from perf.harness.race import PAUSE, Contender, Row, Work, keep_busy
from perf.peers import ingest as others
from perf.peers.ingest import Log

PACKAGES = ("numba", "numpy", "pyarrow", "isal", "polars", "duckdb")
NOTES = """\
- MB/s are of text. Everybody keeps the order of the rows; results are compared with ours.
- Ours writes a dataset: it checks every field, computes checksums and waits for the disk (fsync).
  The others leave one file in the page cache.
- pyarrow.csv parses ids as text and does not convert them; ours makes the final numbers.
- Loading has one processor for reading, mixing and the caller, who looks at no row: in order,
  mapped rows are not even read from memory.
"""
JOBS = (
    ("text", "arrow", "none"),
    ("text", "arrow", "lz4"),
    ("text", "parquet", "lz4"),
    ("text", "parquet", "zstd"),
    (".gz", "arrow", "lz4"),
    (".gz", "parquet", "zstd"),
)
COPIES = (1, 5, 20)  # of the log, whose memory is measured
# A child's ru_maxrss begins with its parent's, so the kernel's own figure comes first.
CHILD = """
import resource, sys, time
from data_tools import ingest
begun = time.perf_counter()
ingest(*sys.argv[1:])
seconds = time.perf_counter() - begun
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
if sys.platform == "linux":
    peak = next(int(line.split()[1]) for line in open("/proc/self/status") if "VmHWM" in line)
print(peak * (1 if sys.platform == "darwin" else 1024), seconds)
"""


def race(
    work: Work,
    contenders: Sequence[Contender],
    options: argparse.Namespace,
    prepare: Callable[[], object] = lambda: None,
) -> Iterator[Row]:
    """Time contenders in turns, each round in another order; all have run once before."""
    running = [c for c in contenders if c.run is not None]
    times: dict[str, list[float]] = {c.name: [] for c in running}
    order = np.random.default_rng(0)
    for _ in range(options.repeats):
        for position in order.permutation(len(running)):
            contender = running[position]
            prepare()
            gc.collect()
            keep_busy(PAUSE)
            begun = time.perf_counter()
            contender.run()
            times[contender.name].append(1e3 * (time.perf_counter() - begun))
    for c in contenders:
        low, median, high = (
            np.percentile(times[c.name], (25, 50, 75)).tolist() if c.run else (None,) * 3
        )
        written = replace(work, output_bytes=c.bytes)
        row = Row(**vars(written), contender=c.name, role=c.role, note=c.note)
        yield replace(
            row, threads=options.threads, ms=median, lower_quartile=low, upper_quartile=high
        )


def empty(folder: Path) -> None:
    """An empty folder, with nothing that the system has yet to write to the disk."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    os.sync()


def jobs(log: Log, folder: Path, options: argparse.Namespace) -> Iterator[Row]:
    """The whole job: text to files of the same format and compression."""
    output = folder / "output"
    for kind, file_format, compression in JOBS:
        source = log.gz if kind == ".gz" else log.text
        name = f"{kind} to {file_format.capitalize()}, {compression}"
        work = Work("ingest", "whole job", name, log.rows, bytes=log.bytes)
        found = others.contenders(source, output, file_format, compression, options.threads)
        yield from race(work, warmed(found, output), options, partial(empty, output))
    shutil.rmtree(output)


def warmed(contenders: Sequence[Contender], output: Path) -> list[Contender]:
    """Run each once, ours first, and compare the rows; the same with the bytes that they wrote."""
    found = []
    for contender in contenders:
        empty(output)
        result = contender.run() if contender.run else None
        if contender.role == "ours":
            dataset = Dataset(output / "ours")
            (expected,) = dataset.split("all").batches(dataset.num_rows, threads=0)
        elif result:
            others.check_written(result, expected)
        written = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
        found.append(replace(contender, bytes=written or None))
    return found


def parsing(log: Log, folder: Path, options: argparse.Namespace) -> Iterator[Row]:
    """Parsing alone, of a file in the page cache, into memory."""
    ours = partial(others.parse_all, log, options.threads)
    pyarrow = partial(others.by_pyarrow, log.text)
    parts = ours()
    rows = Batch(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
    others.check_parsed(pyarrow(), rows)
    del parts, rows
    contenders = [Contender("robe", ours), Contender("pyarrow.csv", pyarrow, "peer")]
    work = Work("ingest", "parsing", "text to memory", log.rows, bytes=log.bytes)
    yield from race(work, contenders, options)


def inflating(log: Log, folder: Path, options: argparse.Namespace) -> Iterator[Row]:
    """Inflating alone, to the end of the text."""
    ours, python = partial(others.inflate, log.gz), partial(others.by_gzip, log.gz)
    assert ours() == python() == log.bytes
    contenders = [Contender("robe", ours), Contender("gzip", python, "peer")]
    work = Work("ingest", "inflating", ".gz to text", log.rows, bytes=log.bytes)
    yield from race(work, contenders, options)


def loading(log: Log, folder: Path, options: argparse.Namespace) -> Iterator[Row]:
    """Batches from each kind of file, in a process of its own that has one processor."""
    datasets = []
    for file_format, compression in (("arrow", "none"), ("arrow", "lz4"), ("parquet", "zstd")):
        path = folder / f"{file_format}-{compression}"
        ingest(log.text, path, file_format=file_format, compression=compression, overwrite=True)
        datasets.append((f"{file_format.capitalize()}, {compression}", path))
    with one_processor(), ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        rows = pool.submit(load_all, log, datasets, options).result()
    for _, path in datasets:
        shutil.rmtree(path)
    yield from rows


@contextmanager
def one_processor() -> Iterator[None]:
    """Keep this thread, and processes that it starts, on one processor, where one can."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def load_all(
    log: Log, datasets: Sequence[tuple[str, Path]], options: argparse.Namespace
) -> list[Row]:
    """All races of the loader."""
    rows = []
    options.threads = 1
    for name, path in datasets:
        for order, seed in (("in order", None), ("shuffled", 0)):
            run = partial(load, path, seed)
            assert run() == log.rows
            work = Work("ingest", "loading", f"{name}, {order}, 1 processor", log.rows)
            rows.extend(race(work, [Contender("robe", run)], options))
    return rows


def load(path: Path, seed: int | None) -> int:
    """Go through a dataset once; its rows."""
    batches = Dataset(path).split("all").batches(2048, shuffle_seed=seed, threads=1)
    return sum(len(batch.dense) for batch in batches)


def memory(log: Log, folder: Path) -> list[dict[str, Any]]:
    """Peak resident memory of ingest with default options, in processes of their own."""
    need = max(COPIES) * (log.bytes + 200 * log.rows)
    free = shutil.disk_usage(folder).free
    if free < need:
        raise SystemExit(
            f"--memory needs {need / 1e9:.0f} GB in {folder}, which has {free / 1e9:.0f}"
        )
    short, long = folder / "short.tsv", folder / "long.tsv"
    Generator(preset="kaggle").write(short, 1000)
    peak(short, folder)  # compiles what is not in Numba's cache
    found = [{"source": "text", "rows": 1000, **peak(short, folder)}]
    done = 0
    for copies in COPIES:
        with long.open("ab") as packed:
            for _ in range(copies - done):
                with log.text.open("rb") as file:
                    shutil.copyfileobj(file, packed, 1 << 20)
        done = copies
        found.append({"source": "text", "rows": copies * log.rows, **peak(long, folder)})
    found.append({"source": ".gz", "rows": log.rows, **peak(log.gz, folder)})
    short.unlink()
    long.unlink()
    return found


def peak(source: Path, folder: Path) -> dict[str, float]:
    """Peak bytes and seconds of one ingest."""
    empty(folder / "output")
    command = [sys.executable, "-c", CHILD, str(source), str(folder / "output")]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    shutil.rmtree(folder / "output")
    return {"peak_bytes": int(printed[0]), "seconds": float(printed[1])}


def memory_table(found: Sequence[dict[str, Any]]) -> str:
    """Peaks as a Markdown table."""
    lines = ["| source | rows | peak, MB | s |", "|---|---|---|---|"]
    for line in found:
        cells = [line["source"], f"{line['rows']:,}", f"{line['peak_bytes'] / 1e6:.0f}"]
        lines.append("| " + " | ".join([*cells, f"{line['seconds']:.2f}"]) + " |")
    return "\n".join(lines)


def table(rows: Sequence[Row]) -> str:
    """A line for each of ours, and a column for each of the others."""
    rivals = list(dict.fromkeys(row.contender for row in rows if row.role == "peer"))
    head = ["what", "ms", "M rows/s", "MB/s", *(f"{name}, ms (times ours)" for name in rivals)]
    head.append("MB written (ours, others)")
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in (row for row in rows if row.role == "ours"):
        beside = {other.contender: other for other in markdown.beside(row, rows)}
        speed = f"{row.bytes / row.ms / 1e3:,.0f}" if row.bytes else ""
        cells = [f"{row.shape}, {row.work}", milliseconds(row), f"{row.items / row.ms / 1e3:.3g}"]
        cells += [speed, *(versus(row, beside.get(name)) for name in rivals)]
        sizes = [r.output_bytes for r in (row, *beside.values()) if r.output_bytes]
        lines.append("| " + " | ".join([*cells, ", ".join(f"{s / 1e6:.0f}" for s in sizes)]) + " |")
    notes = dict.fromkeys(f"{row.contender} {row.note}." for row in rows if row.note)
    return "\n".join([*lines, "", *notes, *([""] if notes else []), NOTES])


def versus(row: Row, other: Row | None) -> str:
    """Another's time, and how many times as fast ours is."""
    if other is None:
        return ""
    return f"{milliseconds(other)} ({other.ms / row.ms:.2f}x)" if other.ms else "absent"


def milliseconds(row: Row) -> str:
    """Its time, to three digits or more."""
    return f"{row.ms:,.0f}" if row.ms >= 100 else f"{row.ms:.1f}"


PARTS = {"jobs": jobs, "parsing": parsing, "inflating": inflating, "loading": loading}


def parse_options() -> argparse.Namespace:
    """The command line."""
    processors = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    )
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--threads", type=int, default=processors, help="everybody's")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--part", choices=PARTS, action="append", help="may be repeated")
    parser.add_argument("--memory", action="store_true", help="measure that, and nothing else")
    parser.add_argument("--folder", type=Path, help="keep the log there, and work there")
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
    """Measure, print a table, and leave the figures."""
    options = parse_options()
    others.set_threads(options.threads)
    if options.folder:
        options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        folder = Path(temporary)
        log = others.make_log(options.folder or folder, options.rows)
        result: dict[str, Any] = {"bench": "ingest", "about": about(options, log)}
        print(markdown.heading(result["about"]))
        print(f"{log.rows:,} rows, {log.bytes / 1e6:.0f} MB of text.\n", flush=True)
        if options.memory:
            result["memory"] = memory(log, folder)
            print(memory_table(result["memory"]))
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
