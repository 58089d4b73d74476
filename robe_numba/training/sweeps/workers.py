"""Calls in processes of their own, which neither outlive this one nor take it along."""

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
    "its process was killed, perhaps for want of memory; the same again goes on with it, and fewer "
    "jobs need less memory"
)


class ProcessKilledError(RuntimeError):
    """A call ended with its process."""


class _Child:
    """One process that makes one call at a time."""

    def __init__(self) -> None:
        # Spawned: a process that was forked after a kernel ran could not run kernels.
        context = multiprocessing.get_context("spawn")
        self._line, other = context.Pipe()
        self._pool = ProcessPoolExecutor(
            1, mp_context=context, initializer=_begin, initargs=(other,)
        )
        with _deaf():  # the child too, until it can leave Ctrl-C to its parent
            self._pool.submit(os.getpid).result()

    def submit(self, function: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        return self._pool.submit(_call, function, *arguments)

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt in the call that is under way, or in the next."""
        self._line.send("interrupt")

    def close(self) -> None:
        self._pool.shutdown()
        self._line.close()


# Of a child: whether a call is under way, and whether it shall end.
_state = {"busy": False, "interrupted": False}
_changing = threading.Lock()


@contextmanager
def _deaf() -> Iterator[None]:
    """Within the block Ctrl-C waits, here and in processes that begin."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(line: Connection) -> None:
    """Listen to the parent, end when it does, and leave the terminal's Ctrl-C to it."""

    computing = threading.main_thread().ident
    assert computing is not None

    def listen() -> None:
        try:
            line.recv()
        except (EOFError, OSError):  # the parent is gone
            os._exit(1)
        with _changing:
            _state["interrupted"] = True
            if _state["busy"]:
                # To the thread that computes: it may be waiting, and must be woken.
                signal.pthread_kill(computing, signal.SIGINT)
        listen()

    threading.Thread(target=listen, daemon=True).start()
    if hasattr(os, "setsid"):
        os.setsid()
    # One that came while we were deaf was for the parent, who has it too: ignoring it drops it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    # A shell starts what it puts in the background with Ctrl-C ignored.
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
    """Make calls in so many processes; yields number and result of each as it ends.

    At an error or Ctrl-C here, the calls under way are interrupted and waited for, and no other
    begins. A call whose process was killed gives a `ProcessKilledError` as its result.

    Parameters
    ----------
    function : of a module; with its arguments and result it must be picklable.
    calls : arguments of each call.
    """
    children = [_Child() for _ in range(min(processes, len(calls)))]
    running: dict[Future[Any], tuple[int, int]] = {}
    waiting = iter(enumerate(calls))

    def begin(slot: int) -> None:
        for number, arguments in waiting:
            running[children[slot].submit(function, *arguments)] = slot, number
            return

    try:
        for slot in range(len(children)):
            begin(slot)
        while running:
            ended, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in ended:
                slot, number = running.pop(future)
                try:
                    result = future.result()
                except BrokenProcessPool:
                    children[slot].close()
                    children[slot] = _Child()
                    result = ProcessKilledError(KILLED)
                begin(slot)
                yield number, result
    finally:
        for slot, _ in running.values():
            children[slot].interrupt()
        wait(running)
        for child in children:
            child.close()
