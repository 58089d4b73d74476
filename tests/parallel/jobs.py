"""Jobs of several processes that mpiexec starts, and `robe` with faults in them."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from robe_numba.parallel import supervisor

# All variables of launchers, and the supervisor's own.
VARIABLES = {name for pair in supervisor._LAUNCHERS for name in pair} | {
    "ROBE_RANK_WORKER", "SLURM_NTASKS", "SLURM_PROCID",
}  # fmt: skip
RANK_1_OF_8 = {"PMI_RANK": "1", "PMI_SIZE": "8"}
ROOT = Path(__file__).resolve().parent.parent.parent
MPIEXEC, ROBE = (Path(sys.executable).with_name(name) for name in ("mpiexec", "robe"))
SECONDS = 600  # of any job, including the compilation of kernels
SIMULATOR = {"NUMBA_ENABLE_CUDASIM": "1", "NUMBA_DISABLE_JIT": "1"}
# Without variables that pytest sets for its own workers, or a launcher for this process.
ENVIRONMENT = {
    name: value
    for name, value in os.environ.items()
    if name not in VARIABLES and not name.startswith(("PYTEST_", "HYDRA_", "PMI_", "MPI_"))
} | {"NUMBA_NUM_THREADS": "2"}


class Job:
    """Processes that mpiexec starts, all with the same command.

    Attributes
    ----------
    output, errors : str
        What they wrote, once the job has ended.
    """

    def __init__(self, size, *command, **environment):
        self._process = subprocess.Popen(
            [MPIEXEC, "-n", str(size), *map(str, command)],
            cwd=ROOT,
            env=ENVIRONMENT | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def interrupt(self):
        """Press Ctrl-C."""
        self._process.send_signal(signal.SIGINT)

    def wait_for(self, condition):
        """Wait until a condition is true."""
        until = time.monotonic() + SECONDS
        while not condition():
            runs = self._process.poll() is None and time.monotonic() < until
            assert runs, f"ended with {self.end(1)}\n{self}"
            time.sleep(0.05)

    def end(self, seconds=SECONDS):
        """The exit code."""
        alarm = threading.Timer(seconds, self._process.kill)
        alarm.start()
        try:
            self.output, self.errors = self._process.communicate()
        finally:
            alarm.cancel()
        assert self._process.returncode != -signal.SIGKILL, f"hangs\n{self}"
        return self._process.returncode

    def __str__(self):
        return f"{self.output}\n{self.errors}"


def finished(size, *command, **environment):
    """A job that has ended, with success."""
    job = Job(size, *command, **environment)
    assert job.end() == 0, job
    return job


# `robe` that shows progress from the first second.
TALKING = """
from robe_numba.parallel.supervisor import supervise_if_launched
supervise_if_launched()
from robe_numba.cli import display, main
display.FIRST_LINE_SECONDS, display.LINE_SECONDS = 0.0, 3600.0
main()
"""

# `robe` with an event before a step. Arguments: the step, the event, a folder, the command line.
CHILD = """
import os, signal, sys, threading, time
from robe_numba.parallel.supervisor import launched, supervise_if_launched
supervise_if_launched()
import data_tools.loader.split
from robe_numba.cli import main
from robe_numba.dlrm import DLRM
from robe_numba.parallel.data_parallel import DataParallel
from robe_numba.training.reports import html
from robe_numba.training.loop import Learner

at, event, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3]
del sys.argv[1:4]
rank, size = launched()
steps, pressed, train_step = 0, threading.Event(), DataParallel.train_step
write_report = html.write_report


def slow_report(run):
    if pressed.is_set():
        time.sleep(2.5)
    write_report(run)


html.write_report = slow_report


def kill():
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)


def fail():
    if rank == 1:
        raise OSError("the disk of this machine is gone")


def unreadable():
    def fail(*_):
        raise OSError("shard 7 cannot be read")

    if rank == 1:
        data_tools.loader.split.Split._stretch = fail


def interrupted():
    # Wait for Ctrl-C, after which rank 0 takes long for the report.
    handle = signal.getsignal(signal.SIGINT)

    def press(number, frame):
        handle(number, frame)
        pressed.set()

    signal.signal(signal.SIGINT, press)
    open(os.path.join(folder, f"ready {rank}"), "w").close()
    assert pressed.wait(100)


def apart():
    # One fails before it sends anything, the other after it has begun to.
    def fail(*_, **__):
        raise OSError("a fault in the middle of a step")

    if rank == 1:
        raise OSError("a fault before a step")
    DLRM.backpropagate = fail


def tested():
    # The test of one rank hangs.
    test = Learner.test

    def slow(learner):
        open(os.path.join(folder, f"ready {rank}"), "w").close()
        time.sleep(1000 if rank == 1 else 0)
        test(learner)

    Learner.test = slow


def counted(*arguments):
    global steps
    steps += 1
    if steps == at:
        globals()[event]()
    return train_step(*arguments)


DataParallel.train_step = counted
main()
"""


def start_child(size, tmp_path, at, event, *command):
    """A job in which an event happens before step `at`."""
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    return Job(size, sys.executable, script, at, event, tmp_path, *command)


def finish(process):
    """Standard output and error, once no process that has them is left."""
    return process.communicate(timeout=30)


# Counts the Ctrl-C that a worker gets.
COUNT = """
counted = []
signal.signal(signal.SIGINT, lambda number, frame: counted.append(number))
def count():
    while not counted:
        time.sleep(0.02)
    time.sleep(0.3)
    return len(counted)
"""
