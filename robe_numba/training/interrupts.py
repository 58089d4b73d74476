"""Ctrl-C between steps: a step is either complete or not started."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def deferred_interrupt() -> Iterator[Callable[[], None]]:
    """Defer Ctrl-C within the block until the yielded function is called between two steps.

    A second Ctrl-C is not deferred. Outside the main thread, where Python delivers no signals,
    nothing is deferred.

    Yields
    ------
    function
        Raises KeyboardInterrupt if Ctrl-C was pressed.
    """
    pressed = threading.Event()

    def press(number: int, frame: Any) -> None:
        if pressed.is_set():
            raise KeyboardInterrupt
        pressed.set()

    def check() -> None:
        if pressed.is_set():
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield check
        return
    previous = signal.signal(signal.SIGINT, press)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, previous)
