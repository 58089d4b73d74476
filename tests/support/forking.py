"""A child of this process, for tests of what it inherits and what it does not."""

import os
import signal
import threading
import warnings

import pytest

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")


def holds_in_a_child(check):
    """Whether check() is true in a forked child, which is killed if it takes too long."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*fork", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            os._exit(0 if check() else 1)
        finally:
            os._exit(2)  # it raised
    alarm = threading.Timer(20, os.kill, (child, signal.SIGKILL))
    alarm.start()
    _, status = os.waitpid(child, 0)
    alarm.cancel()
    return status == 0
