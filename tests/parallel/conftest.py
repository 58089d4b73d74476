"""Scripts that become supervisors of workers, as the command line does."""

import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from robe_numba.parallel import supervisor
from tests.parallel.jobs import RANK_1_OF_8, VARIABLES

# The start of a command line that does not import the package.
BEGIN = f"""
import ctypes, os, signal, subprocess, sys, time
sys.path.insert(0, {str(Path(supervisor.__file__).parent)!r})
import supervisor
supervisor.supervise_if_launched()
def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())
"""


@contextmanager
def nothing_ignored():
    """Start processes as in a terminal: tests may run under nohup or in the background, where some
    signals are ignored, also in child processes.
    """
    ignored = [n for n in supervisor._FORWARDED if signal.getsignal(n) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)


@pytest.fixture
def start(tmp_path):
    """Call it with a script to start, by default as a launcher starts rank 1 of 8."""
    started = []

    def start_script(code, *arguments, launcher=(), variables=RANK_1_OF_8, **options):
        script = tmp_path / "worker.py"
        script.write_text(BEGIN + code)
        environment = {k: v for k, v in os.environ.items() if k not in VARIABLES}
        with nothing_ignored():
            process = subprocess.Popen(
                [*launcher, sys.executable, script, *arguments],
                env=environment | variables,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
                **options,
            )
        alarm = threading.Timer(60, process.kill)  # more than any test takes
        alarm.start()
        started.append((process, alarm))
        return process

    yield start_script
    for process, alarm in started:
        alarm.cancel()
        process.kill()
        with process:
            pass
