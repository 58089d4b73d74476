"""Threads for the parts of a batch, arranged so that their number cannot change a bit.

A batch is cut by its own size alone, each part is computed by one thread with BLAS held to one
thread, and what the parts return is used in their order.
"""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar

import numba
import numpy as np

try:
    import threadpoolctl
except ImportError:
    threadpoolctl = None

Result = TypeVar("Result")

# Fewer rows make matrix products slow and cost more than a second thread gains (the `kaggle`
# model at 128 rows).
MIN_ROWS = 128
# With so many rows they come close to their full speed; only then are there more than four parts.
FULL_ROWS = 512
# More parts are more gradients to hold and to add.
MAX_PARTS = 8

_blas_lock = threading.Lock()
_blas_users = 0
_blas_limit: Any = None


@cache
def _blas_controller() -> Any:
    # Finding the loaded libraries takes milliseconds, setting their threads microseconds.
    return threadpoolctl.ThreadpoolController().select(user_api="blas")


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Hold BLAS to one thread, whose results do not depend on the machine's cores.

    May be nested and used by several threads at once; the last to leave restores the setting.
    Without threadpoolctl it does nothing, and the caller should set OPENBLAS_NUM_THREADS=1 (or
    its library's own variable) to have the same bits on machines with other numbers of cores.
    """
    global _blas_users, _blas_limit
    if threadpoolctl is None:
        yield
        return
    with _blas_lock:
        if _blas_users == 0:
            _blas_limit = _blas_controller().limit(limits=1)
        _blas_users += 1
    try:
        yield
    finally:
        with _blas_lock:
            _blas_users -= 1
            if _blas_users == 0:
                _blas_limit.restore_original_limits()


def micro_batches(rows: int) -> list[slice]:
    """Cut a batch into parts of nearly equal size, by the number of rows alone.

    Parameters
    ----------
    rows : rows of the batch.

    Returns
    -------
    slices in order, at least one (an empty batch is one empty part).
    """
    few = min(max(rows // MIN_ROWS, 1), MAX_PARTS // 2)
    parts = max(few, min(rows // FULL_ROWS, MAX_PARTS))
    return [slice(p * rows // parts, (p + 1) * rows // parts) for p in range(parts)]


class Workers:
    """A fixed number of threads, which live as long as this object.

    Parameters
    ----------
    threads : number of threads; None takes Numba's (NUMBA_NUM_THREADS, else the cores).

    Raises
    ------
    ValueError : `threads` is not positive.
    """

    def __init__(self, threads: int | None = None):
        self.threads = numba.get_num_threads() if threads is None else threads
        if self.threads < 1:
            raise ValueError(f"threads is {threads}; it must be at least 1")
        self._pool: ThreadPoolExecutor | None = None
        self._process: int | None = None  # whose threads the pool has: a fork takes none along

    def run(self, task: Callable[[int], Result], count: int) -> list[Result]:
        """[task(0), ..., task(count - 1)], with BLAS on one thread per task.

        Kernels too run on the task's thread alone, those of a single task on all.
        """

        def quiet(part: int) -> Result:
            # A model that diverges shows it in its loss; warnings would only repeat it.
            with np.errstate(over="ignore", invalid="ignore"):
                return task(part)

        with single_threaded_blas():
            if self.threads == 1:
                with _kernels_on(1):
                    return [quiet(part) for part in range(count)]
            if count == 1:
                with _kernels_on(self.threads):
                    return [quiet(0)]
            return list(self._threads().map(quiet, range(count)))

    def _threads(self) -> ThreadPoolExecutor:
        if self._pool is None or self._process != os.getpid():
            # Numba keeps the number of kernels' threads by Python thread.
            self._pool = ThreadPoolExecutor(
                self.threads, initializer=numba.set_num_threads, initargs=(1,)
            )
            self._process = os.getpid()
        return self._pool


@contextmanager
def _kernels_on(threads: int) -> Iterator[None]:
    allowed = numba.get_num_threads()
    numba.set_num_threads(min(threads, allowed))
    try:
        yield
    finally:
        numba.set_num_threads(allowed)
