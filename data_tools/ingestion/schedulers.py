"""Run tasks on threads of this process, or on a Dask cluster."""

import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from typing import Any

from data_tools.ingestion.plan import ShardTask
from data_tools.ingestion.worker import ShardError, ShardMaker, StoppedError

LOCAL, THREADS = "local", "threads"
LOOK_SECONDS = 0.2  # between two calls of `look`
AT_THE_DISK = 2  # threads that wait for the disk, besides those that make shards
# Errors that explain themselves. Any other is a bug, whose traceback is needed.
EXPECTED = (ShardError, OSError, ValueError, ImportError, MemoryError)


def default_threads() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def executor(scheduler: str, threads: int) -> Iterator[tuple[Executor, dict[str, Any]]]:
    """An executor of tasks, and further arguments for tasks that run in this process.

    Parameters
    ----------
    scheduler : str
        "threads", "local" (a Dask cluster of processes on this machine) or the address of a Dask
        scheduler, `tcp://...`.
    threads : int
        Threads of this process, or processes of the local cluster.
    """
    if scheduler == THREADS:
        stop, slots = threading.Event(), threading.Semaphore(threads)
        workers = threads + AT_THE_DISK
        with ThreadPoolExecutor(workers, thread_name_prefix="ingest") as pool:
            try:
                yield pool, {"stop": stop, "slots": slots}
            finally:
                stop.set()
        return
    try:
        from distributed import Client, LocalCluster
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"scheduler {scheduler} needs Dask: pip install 'robe-numba[cluster]', or choose "
            f"scheduler {THREADS}",
            name=error.name,
        ) from error
    if scheduler == LOCAL:
        cluster = LocalCluster(
            n_workers=threads,
            threads_per_worker=1,
            dashboard_address=":0",
            # A worker that is stopped in mid-heartbeat logs an error; errors of tasks are returned.
            silence_logs=logging.CRITICAL,
        )
        with cluster as local, Client(local) as client:
            yield client.get_executor(pure=False), {}
    else:
        with Client(scheduler) as client:
            yield client.get_executor(pure=False), {}


def _run(maker: ShardMaker, task: ShardTask, **arguments: Any) -> Exception | None:
    """Run a task, and return an expected error: Dask prints tracebacks of raised ones."""
    try:
        maker.make(task, **arguments)
    except EXPECTED as error:
        return error
    return None


def _error(future: "Future[Exception | None]") -> BaseException | None:
    """What a finished task returned or raised."""
    return None if future.cancelled() else future.exception() or future.result()


def run_tasks(
    maker: ShardMaker,
    tasks: Sequence[ShardTask],
    scheduler: str,
    threads: int,
    look: Callable[[], None],
) -> None:
    """Run all tasks; meanwhile the caller's thread calls `look` repeatedly.

    An error of a task is raised. If several fail, it is that of the first in order.
    """
    with executor(scheduler, threads) as (pool, arguments):
        function: Any = partial(_run, maker, **arguments)
        futures: list[Future[Exception | None]] = [pool.submit(function, task) for task in tasks]
        waiting = set(futures)
        try:
            while waiting:
                done, waiting = wait(waiting, LOOK_SECONDS, FIRST_COMPLETED)
                failed = [future for future in done if _error(future) is not None]
                if failed:
                    # Those before it may still fail, and then come first.
                    first = min(map(futures.index, failed))
                    for later in futures[first + 1 :]:
                        later.cancel()
                    waiting -= set(futures[first + 1 :])
                look()
            for future in futures:
                error = _error(future) if future.done() else None
                if error is not None and not isinstance(error, StoppedError):
                    raise error
        finally:
            for future in futures:
                future.cancel()
