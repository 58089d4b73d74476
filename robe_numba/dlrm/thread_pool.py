"""Threads that compute the parts of a batch, with the same bits for any number of threads.

A batch is cut by its own size alone, each part is computed by one thread with BLAS limited to one
thread, and the results of the parts are combined in their order.
"""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from contextvars import Context
from functools import cache
from typing import Any, TypeVar

import numba
import numpy as np

from robe_numba._locks import renewed_lock
from robe_numba.kernels.cpu.launch import num_threads, on_threads

try:
    import threadpoolctl
except ImportError:
    threadpoolctl = None

Result = TypeVar("Result")

# With fewer rows per part, slower matrix products cost more than a second thread gains (measured
# with the `kaggle` model at 128 rows).
MIN_ROWS = 128
# From this size on, matrix products are near full speed; only then are there more than four parts.
FULL_ROWS = 512
# Each part has a gradient of its own to keep and to add.
MAX_PARTS = 8

# A context in which NumPy does not warn of overflows: the loss shows that a model diverges. (With
# `numpy.errstate` instead, Python 3.11 crashes where the garbage collector runs a finalizer that
# enters it too.)
_quiet = Context()
_quiet.run(np.seterr, over="ignore", invalid="ignore")

_blas_lock = renewed_lock()
_blas_users: set[object] = set()
_blas_before: list[int] | None = None  # threads of each library before the first user


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_blas_users.clear)  # a fork has none of their threads


@cache
def _blas_libraries() -> list[Any]:
    # Finding the loaded libraries takes milliseconds, setting their threads microseconds.
    return list(threadpoolctl.ThreadpoolController().select(user_api="blas").lib_controllers)


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Limit BLAS to one thread, so that results do not depend on the machine's cores.

    Contexts may be nested and used by several threads at once; the last to leave restores the
    setting. Without threadpoolctl nothing happens: set OPENBLAS_NUM_THREADS=1 (or the variable of
    another BLAS) to have the same bits on machines with other numbers of cores.
    """
    if threadpoolctl is None:
        yield
        return
    user = object()
    try:
        _hold_blas(user)
        yield
    finally:
        _blas_users.discard(user)
        _restore_blas()


def _hold_blas(user: object) -> None:
    """Save the setting, then add the user: a signal handler in between may use BLAS itself."""
    global _blas_before
    with _blas_lock:
        before = [library.num_threads for library in _blas_libraries()]
        _blas_users.add(user)
        if _blas_before is None:
            _blas_before = before
        for library in _blas_libraries():
            library.set_num_threads(1)


def _restore_blas() -> None:
    """Restore the setting after the last user; the next one does so if this is interrupted."""
    global _blas_before
    with _blas_lock:
        before = _blas_before
        if before is not None and not _blas_users:
            for library, threads in zip(_blas_libraries(), before, strict=True):
                library.set_num_threads(threads)
            _blas_before = None


def micro_batches(rows: int) -> list[slice]:
    """Cut a batch into parts of nearly equal size, by the number of rows alone.

    Parameters
    ----------
    rows : int
        Rows of the batch.

    Returns
    -------
    list of slice
        In order, at least one: an empty batch is one empty part.
    """
    few = min(max(rows // MIN_ROWS, 1), MAX_PARTS // 2)
    parts = max(few, min(rows // FULL_ROWS, MAX_PARTS))
    return [slice(p * rows // parts, (p + 1) * rows // parts) for p in range(parts)]


class ThreadPool:
    """A fixed number of threads, which live as long as this object.

    Parameters
    ----------
    threads : int, optional
        Number of threads; by default Numba's (NUMBA_NUM_THREADS, else the cores).

    Raises
    ------
    ValueError
        `threads` is not positive.
    """

    def __init__(self, threads: int | None = None):
        self.threads = num_threads() if threads is None else threads
        if self.threads < 1:
            raise ValueError(f"threads is {threads}; it must be at least 1")
        self._pool: ThreadPoolExecutor | None = None
        self._process: int | None = None  # which started the pool: a fork has none of its threads

    def run(
        self, task: Callable[[int], Result], count: int, uses_blas: bool = True
    ) -> list[Result]:
        """[task(0), ..., task(count - 1)], with BLAS and kernels on one thread per task.

        The kernels of a single task run on all threads. A task that does not use BLAS leaves it
        alone: threads of BLAS that are set free again spin for a while, on cores that others need.
        """

        def quiet(part: int) -> Result:
            return _quiet.copy().run(task, part)

        def in_order() -> list[Result]:
            return [quiet(part) for part in range(count)]

        with single_threaded_blas() if uses_blas else nullcontext():
            if self.threads == 1 or _pool_thread.working:
                return on_threads(1, in_order)
            if count == 1:
                return on_threads(self.threads, in_order)
            return list(self._threads().map(quiet, range(count)))

    def _threads(self) -> ThreadPoolExecutor:
        if self._pool is None or self._process != os.getpid():
            self._pool = ThreadPoolExecutor(self.threads, initializer=_begin_thread)
            self._process = os.getpid()
        return self._pool


class _PoolThread(threading.local):
    """Whether this thread belongs to a pool. It must not wait for others: all might wait."""

    working = False


_pool_thread = _PoolThread()


def _begin_thread() -> None:
    _pool_thread.working = True
    numba.set_num_threads(1)  # Numba keeps this per Python thread
