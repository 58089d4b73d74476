"""Processes of MPI that train together: each of them from within, and all of them from outside."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file
from typer.testing import CliRunner

from data_tools.loader import peers
from robe_numba.cli.app import app
from robe_numba.parallel.carriers import base
from robe_numba.training import RunFolder
from tests.parallel.test_supervisor import VARIABLES

if sys.platform == "win32":
    pytest.skip("no supervisors on Windows", allow_module_level=True)

ROOT = Path(__file__).resolve().parent.parent
MPIEXEC, ROBE = (Path(sys.executable).with_name(name) for name in ("mpiexec", "robe"))
SECONDS = 600  # of any job, kernels to be compiled included
SIMULATOR = {"NUMBA_ENABLE_CUDASIM": "1", "NUMBA_DISABLE_JIT": "1"}
# Not what pytest tells its own workers, nor what a launcher told this process.
ENVIRONMENT = {
    name: value
    for name, value in os.environ.items()
    if name not in VARIABLES and not name.startswith(("PYTEST_", "HYDRA_", "PMI_", "MPI_"))
} | {"NUMBA_NUM_THREADS": "2"}


class Job:
    """Processes that mpiexec starts, all with the same command.

    Attributes
    ----------
    output, errors : what they wrote, once it has ended.
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
        """Return once something has come true."""
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
    """What processes wrote that have to succeed."""
    job = Job(size, *command, **environment)
    assert job.end() == 0, job
    return job


PYTEST = (sys.executable, "-m", "pytest", "-n0", "-p", "no:cacheprovider", "-q", "tests/mpi")


@pytest.mark.parametrize("size", [2, 3])
def test_everything_passes_on_all_ranks(size):
    job = finished(size, *PYTEST)
    assert len(re.findall(r"^\d+ passed in ", job.output, re.MULTILINE)) == size, job


def test_everything_of_the_gpu_passes_in_the_simulator():
    job = finished(2, *PYTEST, **SIMULATOR)
    assert len(re.findall(r"^\d+ passed in ", job.output, re.MULTILINE)) == 2, job


@given(st.integers(0, 10**13), st.integers(1, 3000), st.data())
def test_rows_are_shared_out_as_gradients_are(count, size, data):
    rank = data.draw(st.integers(0, size - 1))
    assert base.share_of(count, rank, size) == peers.share_of(count, rank, size)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("NUMBA_NUM_THREADS=0", "NUMBA_NUM_THREADS is '0'; it must be"),
        ("NUMBA_DISABLE_JIT=1", "NUMBA_DISABLE_JIT is set, but"),
    ],
)
def test_what_numba_cannot_be_told_is_no_fault_of_mpi(setting, sentence):
    name, value = setting.split("=")
    job = Job(2, ROBE, "evaluate", "run", "data", **{name: value})
    assert job.end() != 0
    errors = [line for line in job.errors.splitlines() if line.startswith("error: ")]
    assert errors
    assert all(line.startswith(f"error: {sentence}") for line in errors), job


OPTIONS = ("--compression", "20", "--batch-size", "256", "--epochs", "2", "--evaluations", "2",
           "--bottom", "32", "--top", "32", "--checkpoint-minutes", "0",
           "--log", "mlperf")  # fmt: skip

# `robe` that tells from the first second how far it is.
TALKING = """
from robe_numba.parallel.supervisor import supervise_if_launched
supervise_if_launched()
from robe_numba.cli import display, main
display.FIRST_LINE_SECONDS, display.LINE_SECONDS = 0.0, 3600.0
main()
"""

# `robe` with something that happens as a step begins: at which, what, and the command line.
CHILD = """
import os, signal, sys, threading, time
from robe_numba.parallel.supervisor import launched, supervise_if_launched
supervise_if_launched()
import data_tools.loader.split
from robe_numba.cli import main
from robe_numba.dlrm import DLRM
from robe_numba.parallel.data_parallel import DataParallel
from robe_numba.training import report
from robe_numba.training.learner import Learner

at, deed, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3]
del sys.argv[1:4]
rank, size = launched()
steps, pressed, train_step = 0, threading.Event(), DataParallel.train_step


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
    # Wait for Ctrl-C, after which rank 0 takes its time for the report.
    note, write_report = signal.getsignal(signal.SIGINT), report.write_report

    def press(number, frame):
        note(number, frame)
        pressed.set()

    def late(run):
        time.sleep(2.5)
        write_report(run)

    signal.signal(signal.SIGINT, press)
    report.write_report = late
    open(os.path.join(folder, f"ready {rank}"), "w").close()
    assert pressed.wait(100)


def apart():
    # One fails before it sends anything, the other when it has begun to.
    def fail(*_, **__):
        raise OSError("a fault in the middle of a step")

    if rank == 1:
        raise OSError("a fault before a step")
    DLRM.backpropagate = fail


def tested():
    # The test of one rank does not end.
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
        globals()[deed]()
    return train_step(*arguments)


DataParallel.train_step = counted
main()
"""


def start_child(size, tmp_path, at, deed, *command):
    """Processes in which something happens as step `at` begins."""
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    return Job(size, sys.executable, script, at, deed, tmp_path, *command)


def records(run):
    """metrics.jsonl without what the clock decides, and what was carried."""
    unsteady = ("seconds", "communication")
    return [{k: v for k, v in r.items() if k not in unsteady} for r in run.metrics()]


def assert_alike(run, other):
    """Two runs differ by rounding alone."""
    found, expected = (load_file(r.path / "model.safetensors") for r in (run, other))
    assert list(found) == list(expected)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=0, atol=1e-4, err_msg=name)
    losses = [[r["test"]["log_loss"] for r in x.metrics() if "test" in r] for x in (run, other)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.fixture(scope="module")
def unstopped(dataset, tmp_path_factory):
    """A run of two processes, and what they wrote."""
    folder = tmp_path_factory.mktemp("unstopped") / "run"
    script = folder.with_name("talking.py")
    script.write_text(TALKING)
    job = finished(2, sys.executable, script, "train", dataset.path, "-o", folder, *OPTIONS)
    return RunFolder(folder), job


def test_rank_0_alone_speaks(unstopped):
    run, job = unstopped
    lines, told = job.output.splitlines(), job.errors.splitlines()
    assert len(re.findall(r"(?m)^2 processes of \d+ threads?: \w+ brings ", job.errors)) == 1
    assert '"2 x cpu"' in (run.path / "mlperf.log").read_text()
    for step in (4, 8, 12, 16):
        assert sum(line.startswith(f"robe: step {step}, validation AUC ") for line in told) == 1
    assert sum(line.startswith("test rows 250, AUC ") for line in lines) == 1
    assert len(told) == 1 + 4
    assert len(lines) == 1 + 1  # and the sizes of the run
    assert run.finished
    assert (run.path / "report.html").is_file()
    assert run.config["training"]["ranks"] == 2


def test_an_evaluation_prints_what_one_process_prints(unstopped, dataset):
    run, _ = unstopped
    command = ["evaluate", str(run.path), str(dataset.path), "--part", "all"]
    alone = CliRunner().invoke(app, command)
    assert alone.exit_code == 0
    job = finished(2, ROBE, *command, "--quiet")
    assert job.output == alone.stdout
    assert job.output.startswith("all rows 2,500, AUC 0.")
    assert job.errors == ""


def test_a_killed_rank_ends_all_and_others_go_on(unstopped, dataset, tmp_path):
    run = tmp_path / "run"
    command = ("train", dataset.path, "-o", run, *OPTIONS)
    begun = time.monotonic()
    job = start_child(2, tmp_path, 6, "kill", *command)
    assert job.end() != 0
    assert time.monotonic() - begun < 60
    (line,) = [line for line in str(job).splitlines() if "error: rank" in line]
    assert re.search(r"error: rank 1 of 2 \(process \d+ on .*\) was killed by SIGKILL", line)
    assert RunFolder(run).checkpoints.steps() == [5, 4]

    finished(3, ROBE, "train", dataset.path, "-o", run, "--resume")
    assert_alike(RunFolder(run), unstopped[0])
    (change,) = [record for record in RunFolder(run).metrics() if "changed" in record]
    assert change == {"step": 5, "changed": {"ranks": 3}}
    assert RunFolder(run).finished


FAILURES = {
    "apart": (6, {0: "a fault in the middle of a step", 1: "a fault before a step"}),
    "fail": (6, {1: "the disk of this machine is gone"}),
    "unreadable": (3, {0: "rank 1 sent 0 rows of window 0", 1: "shard 7 cannot be read"}),
}


@pytest.mark.parametrize("deed", FAILURES)
def test_an_error_of_one_rank_ends_all_with_its_name_and_cause(dataset, tmp_path, deed):
    at, causes = FAILURES[deed]
    begun = time.monotonic()
    job = start_child(
        2, tmp_path, at, deed, "train", dataset.path, "-o", tmp_path / "run", *OPTIONS
    )
    assert job.end() != 0
    assert time.monotonic() - begun < 60
    said = str(job)
    named = re.findall(r"^error: rank (\d) of 2 \(process \d+ on .*\): ", said, re.MULTILINE)
    assert sorted(map(int, named)) == list(causes), said
    for cause in causes.values():
        assert said.count(cause) == 1, said
    assert RunFolder(tmp_path / "run").checkpoints.steps()


def test_ctrl_c_leaves_a_run_that_goes_on_to_the_same_bytes(unstopped, dataset, tmp_path):
    run = tmp_path / "run"
    job = start_child(2, tmp_path, 6, "interrupted", "train", dataset.path, "-o", run, *OPTIONS)
    job.wait_for(lambda: len(list(tmp_path.glob("ready *"))) == 2)
    job.interrupt()
    assert job.end() != 0
    assert job.output.count("interrupted;") == 1, job
    assert "error:" not in str(job), job
    assert RunFolder(run).checkpoints.steps() == [6, 5]
    assert (run / "report.html").is_file()

    finished(2, ROBE, "train", dataset.path, "-o", run, "--resume")
    expected = unstopped[0]
    assert (run / "model.safetensors").read_bytes() == (
        expected.path / "model.safetensors"
    ).read_bytes()
    assert records(RunFolder(run)) == records(expected)


def test_ctrl_c_ends_what_the_ranks_have_not_agreed_on(dataset, tmp_path):
    """As during the test, in which they meet at the end alone."""
    run = tmp_path / "run"
    job = start_child(2, tmp_path, 1, "tested", "train", dataset.path, "-o", run, *OPTIONS)
    job.wait_for(lambda: len(list(tmp_path.glob("ready *"))) == 2)
    job.interrupt()
    assert job.end(60) != 0
    assert "error: rank 1 of 2" in str(job)


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        (("train", "{data}", "-o", "{run}", *OPTIONS), 1, "--overwrite"),
        (("train", "{data}", "-o", "{new}", "--batch-size", "many"), 2, "'--batch-size'"),
        (
            ("train", "{data}", "-o", "{new}", "--compression", "20", "--batch-size", "1"),
            1,
            "give each at least one row",
        ),
        (("sweep", "{data}", "-o", "{new}"), 1, "error: 2 processes were started, but robe sweep"),
    ],
    ids=["output", "usage", "batch", "sweep"],
)
def test_what_all_refuse_is_said_once(unstopped, dataset, tmp_path, command, code, words):
    places = {"data": dataset.path, "run": unstopped[0].path, "new": tmp_path / "new"}
    job = Job(2, ROBE, *(word.format(**places) for word in command))
    assert job.end() == code, job
    assert job.output == ""
    assert job.errors.lower().count("error") == 1, job
    assert job.errors.count(words) == 1
    assert not (tmp_path / "new").exists()


def test_the_launcher_of_another_mpi_is_refused_by_rank_0(dataset, tmp_path):
    """What it tells its processes is not heard by the MPI that is there."""
    command = [ROBE, "train", dataset.path, "-o", tmp_path / "run", *OPTIONS]
    told = {"OMPI_COMM_WORLD_SIZE": "2", "PYTHONWARNINGS": "ignore"}  # mpi4py too may warn
    started = [
        subprocess.Popen(
            command,
            env=ENVIRONMENT | told | {"OMPI_COMM_WORLD_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    heard = [process.communicate(timeout=SECONDS) for process in started]
    assert [process.returncode for process in started] == [1, 1]
    words = "error: the launcher started 2 processes, but MPI sees 1: it belongs to another MPI"
    assert heard[0][0] == ""
    assert heard[0][1].startswith(words)
    assert heard[1] == ("", "")
    assert not (tmp_path / "run").exists()
