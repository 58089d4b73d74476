"""Races of ingest, and those of the loader: rows, lists, and lists that are made on the fly."""

import argparse
import gc
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from data_tools import Dataset, ingest
from perf.harness.race import Contender, Row, Workload, race
from perf.peers import list_loading
from perf.peers.ingest import Log


def ingest_race(
    work: Workload,
    contenders: Sequence[Contender],
    options: argparse.Namespace,
    prepare: Callable[[], object] = lambda: None,
) -> list[Row]:
    """Time contenders in turns; all have run once before."""

    def prepare_turn() -> None:
        prepare()
        gc.collect()

    rows = race(work, contenders, options.repeats, warm_up=0, lead=0, prepare=prepare_turn)
    return [replace(row, threads=options.threads) for row in rows]


def loading(log: Log, folder: Path, options: argparse.Namespace) -> Iterator[Row]:
    """Batches from each kind of file, in a separate process with one processor."""
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
    """Keep this thread and processes that it starts on one processor, where the system can."""
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
            work = Workload("ingest", "loading", f"{name}, {order}, 1 processor", log.rows)
            rows.extend(ingest_race(work, [Contender("robe", run)], options))
    return rows


def loading_lists(log: Log, folder: Path, options: argparse.Namespace) -> Iterator[Row]:
    """Batches of lists, stored and made on the fly, in a separate process with one processor."""
    stored = [list_loading.make_dataset(folder, max(options.rows // 2, 1), n) for n in (1, 4)]
    single, expanded = folder / "single", folder / "expanded"
    ingest(log.text, single, ids="appearance", overwrite=True)
    ingest(log.text, expanded, ids="appearance", multi_hot_sizes="mlperf", overwrite=True)
    with one_processor(), ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        yield from pool.submit(load_lists, stored, single, expanded, options).result()
    for path in (*(path for path, _ in stored), single, expanded):
        shutil.rmtree(path)


def load_lists(
    stored: Sequence[tuple[Path, list_loading.Total]],
    single: Path,
    expanded: Path,
    options: argparse.Namespace,
) -> list[Row]:
    """All races of lists; items are ids."""
    rows, options.threads = [], 1
    for order, seed in (("in order", None), ("shuffled", 0)):
        for features, (path, total) in zip((1, 4), stored, strict=True):
            assert list_loading.total_of(path, seed) == total
            ours, pyarrow = (
                partial(run, path, seed)
                for run in (list_loading.load, list_loading.load_by_pyarrow)
            )
            assert ours() == pyarrow() == total[1]
            shape = f"{features} x 20 ids, {order}, 1 processor"
            work = Workload("ingest", "loading lists", shape, total[1])
            contenders = [Contender("robe", ours), Contender("pyarrow", pyarrow, "peer")]
            rows.extend(ingest_race(work, contenders, options))
        ours = partial(list_loading.load, expanded, seed)
        tables = partial(list_loading.TableExpansion(expanded).batches, single, seed)
        assert ours() == tables()
        work = Workload("ingest", "loading lists", f"214 ids made, {order}, 1 processor", ours())
        contenders = [Contender("robe", ours), Contender("tables", tables, "peer")]
        rows.extend(ingest_race(work, contenders, options))
    return rows


def load(path: Path, seed: int | None) -> int:
    """Go through a dataset once; the number of rows."""
    batches = Dataset(path).split("all").batches(2048, shuffle_seed=seed, threads=1)
    return sum(len(batch.dense) for batch in batches)
