"""Worker processes: killed, interrupted, and left without a parent.

Imports little, as each worker does too.
"""

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from robe_numba.training.sweeps.workers import ProcessKilledError, call_all


def slow_or_dead(folder, number):
    """Notes its process; number 0 dies, others end or are interrupted."""
    (folder / f"{number}").write_text(str(os.getpid()))
    if number == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        time.sleep(0.2 if number < 3 else 600)
    except KeyboardInterrupt:
        (folder / f"{number}-interrupted").touch()
        raise
    return number


def test_a_killed_process_is_an_error_of_its_call_alone(tmp_path):
    results = dict(call_all(slow_or_dead, [(tmp_path, n) for n in range(3)], 2))
    assert isinstance(results[0], ProcessKilledError)
    assert (results[1], results[2]) == (1, 2)


def test_processes_are_interrupted_and_waited_for(tmp_path):
    with closing(call_all(slow_or_dead, [(tmp_path, n) for n in (1, 8, 9)], 2)) as results:
        assert next(results) == (0, 1)
        while not (tmp_path / "8").is_file():
            time.sleep(0.05)
    assert (tmp_path / "8-interrupted").is_file()


CHILD = """
import sys
from pathlib import Path
from tests.training.sweeps.test_workers import call_all, slow_or_dead
if __name__ == "__main__":
    list(call_all(slow_or_dead, [(Path(sys.argv[1]), 7)], 1))
"""


BEGIN = """
import os, signal
from multiprocessing import Pipe
from robe_numba.training.sweeps.workers import _begin, interrupts_blocked
with interrupts_blocked():
    os.kill(os.getpid(), signal.SIGINT)
    here, there = Pipe()
    _begin(there)
    print("begun")
try:
    os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt:
    print("heard")
"""


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="signals cannot be held back")
def test_ctrl_c_while_a_process_begins_is_left_to_its_parent():
    child = subprocess.run([sys.executable, "-c", BEGIN], capture_output=True, text=True)
    assert (child.stdout, child.stderr) == ("begun\nheard\n", "")


def test_no_process_outlives_its_parent(tmp_path):
    parent = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path)])
    while not (tmp_path / "7").is_file() or not (tmp_path / "7").read_text():
        assert parent.poll() is None
        time.sleep(0.05)
    child = int((tmp_path / "7").read_text())
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 30
    while Path(f"/proc/{child}").exists() and "Z" not in state_of(child):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def state_of(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return "Z"
