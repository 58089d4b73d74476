"""Locks that outlive a fork: a child has none of the threads that may have held them."""

import os
import threading
import weakref
from typing import Any

_locks: weakref.WeakSet[Any] = weakref.WeakSet()


def renewed_lock() -> Any:
    """A `threading.RLock` that nobody holds in a forked child but the thread that forked.

    The thread that holds it may take it again, as signal handlers and finalizers do.
    """
    lock = threading.RLock()
    _locks.add(lock)
    return lock


def _begin_process() -> None:
    for lock in list(_locks):
        if not lock._is_owned():
            lock._at_fork_reinit()  # as the standard library does with its own


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_process)
