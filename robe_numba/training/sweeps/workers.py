"""Function calls in worker processes, which end with this one and may die without it."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

KILLED = (
    "its process was killed, perhaps because memory ran out; run the same command again to resume, "
    "with fewer jobs to use less memory"
)


class ProcessKilledError(RuntimeError):
    """The process of a call was killed."""


class _Worker:
    """One process that runs one call at a time."""

    def __init__(self) -> None:
        # Spawned: after a fork a process could not run kernels if this one already has.
        context = multiprocessing.get_context("spawn")
        self._line, other = context.Pipe()
        self._pool = ProcessPoolExecutor(
            1, mp_context=context, initializer=_begin, initargs=(other,)
        )
        with interrupts_blocked():  # in the child too, until it leaves Ctrl-C to its parent
            self._pool.submit(os.getpid).result()

    def submit(self, function: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        return self._pool.submit(_call, function, *arguments)

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt in the current call, or in the next."""
        self._line.send("interrupt")

    def close(self) -> None:
        self._pool.shutdown()
        self._line.close()


# In a worker: whether a call is running, and whether it must end.
_state = {"busy": False, "interrupted": False}
_changing = threading.Lock()


@contextmanager
def interrupts_blocked() -> Iterator[None]:
    """Delay Ctrl-C until the end of the block, here and in processes that start."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(line: Connection) -> None:
    """In a worker: listen to the parent, end when it does, and leave Ctrl-C to it."""
    computing = threading.get_ident()

    def listen() -> None:
        try:
            line.recv()
        except (EOFError, OSError):  # the parent is gone
            os._exit(1)
        with _changing:
            _state["interrupted"] = True
            if _state["busy"]:
                # To the thread that computes, which may be waiting and must wake up.
                signal.pthread_kill(computing, signal.SIGINT)
        listen()

    threading.Thread(target=listen, daemon=True).start()
    if hasattr(os, "setsid"):
        os.setsid()
    # Drop a Ctrl-C that came while it was blocked: the parent got it too.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    # A shell starts background jobs with Ctrl-C ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    with _changing:
        if _state["interrupted"]:
            raise KeyboardInterrupt
        _state["busy"] = True
    try:
        return function(*arguments)
    finally:
        with _changing:
            _state["busy"] = False


def call_all(
    function: Callable[..., Any], calls: Sequence[tuple[Any, ...]], processes: int
) -> Generator[tuple[int, Any], None, None]:
    """Run calls in several processes, and yield the index and result of each as it ends.

    At an error or Ctrl-C here, running calls are interrupted and waited for, and no other starts.
    The result of a call whose process was killed is a `ProcessKilledError`.

    Parameters
    ----------
    function : callable
        A function of a module. It, its arguments and its result must be picklable.
    calls : sequence of tuple
        Arguments of each call.
    processes : int
        Number of processes.
    """
    workers = [_Worker() for _ in range(min(processes, len(calls)))]
    running: dict[Future[Any], tuple[int, int]] = {}
    waiting = iter(enumerate(calls))

    def begin(slot: int) -> None:
        for number, arguments in waiting:
            running[workers[slot].submit(function, *arguments)] = slot, number
            return

    try:
        for slot in range(len(workers)):
            begin(slot)
        while running:
            ended, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in ended:
                slot, number = running.pop(future)
                try:
                    result = future.result()
                except BrokenProcessPool:
                    workers[slot].close()
                    workers[slot] = _Worker()
                    result = ProcessKilledError(KILLED)
                begin(slot)
                yield number, result
    finally:
        for slot, _ in running.values():
            workers[slot].interrupt()
        wait(running)
        for worker in workers:
            worker.close()
