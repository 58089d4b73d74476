"""Jobs of several processes that train together, seen from outside; tests/mpi runs within them."""

import re
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors.numpy import load_file
from typer.testing import CliRunner

from robe_numba.cli.app import app
from robe_numba.training import RunFolder
from tests.support.needs import MPI, need

need(*MPI)

from tests.parallel.jobs import (
    ENVIRONMENT,
    ROBE,
    SECONDS,
    SIMULATOR,
    TALKING,
    Job,
    finished,
    start_child,
)

PYTEST = (sys.executable, "-m", "pytest", "-n0", "-p", "no:cacheprovider", "-q", "tests/mpi")


# Ranks share a pipe, so the last line of one may follow that of another without a line break.
PASSED = re.compile(r"\d+ passed in ")


def test_everything_passes_on_all_ranks():
    """Of three; groups of two are among them."""
    job = finished(3, *PYTEST)
    assert len(PASSED.findall(job.output)) == 3, job


def test_everything_of_the_gpu_passes_in_the_simulator():
    job = finished(2, *PYTEST, **SIMULATOR)
    assert len(PASSED.findall(job.output)) == 2, job


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("NUMBA_NUM_THREADS", "0", "NUMBA_NUM_THREADS is '0'; it must be"),
        ("NUMBA_DISABLE_JIT", "1", "NUMBA_DISABLE_JIT is set, but"),
    ],
)
def test_numba_settings_are_checked_before_mpi_starts(name, value, sentence):
    job = Job(2, ROBE, "evaluate", "run", "data", **{name: value})
    assert job.end() != 0
    errors = [line for line in job.errors.splitlines() if line.startswith("error: ")]
    assert errors
    assert all(line.startswith(f"error: {sentence}") for line in errors), job


OPTIONS = ("--compression", "20", "--batch-size", "256", "--epochs", "2", "--evaluations", "2",
           "--bottom", "32", "--top", "32", "--checkpoint-minutes", "0",
           "--log", "mlperf")  # fmt: skip


def records(run):
    """metrics.jsonl without times and traffic."""
    unsteady = ("seconds", "communication")
    return [{k: v for k, v in r.items() if k not in unsteady} for r in run.metrics()]


def assert_alike(run, other):
    """Two runs differ only by rounding."""
    found, expected = (load_file(r.path / "model.safetensors") for r in (run, other))
    assert list(found) == list(expected)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=0, atol=1e-4, err_msg=name)
    losses = [[r["test"]["log_loss"] for r in x.metrics() if "test" in r] for x in (run, other)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.fixture(scope="module")
def unstopped(dataset, tmp_path_factory):
    """A run of two processes, and their job."""
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
    assert len(lines) == 1 + 1  # sizes of the run
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


def test_a_killed_rank_ends_all_and_other_ranks_resume(unstopped, dataset, tmp_path):
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


@pytest.mark.parametrize("event", FAILURES)
def test_an_error_of_one_rank_ends_all_with_its_name_and_cause(dataset, tmp_path, event):
    at, causes = FAILURES[event]
    begun = time.monotonic()
    job = start_child(
        2, tmp_path, at, event, "train", dataset.path, "-o", tmp_path / "run", *OPTIONS
    )
    assert job.end() != 0
    assert time.monotonic() - begun < 60
    said = str(job)
    named = re.findall(r"^error: rank (\d) of 2 \(process \d+ on .*\): ", said, re.MULTILINE)
    assert sorted(map(int, named)) == list(causes), said
    for cause in causes.values():
        assert said.count(cause) == 1, said
    assert RunFolder(tmp_path / "run").checkpoints.steps()


def test_ctrl_c_leaves_a_run_that_is_resumed_to_the_same_bytes(unstopped, dataset, tmp_path):
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
    """As during the test, in which the ranks only meet at the end."""
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
        (("sweep", "{data}", "-o", "{new}"), 1, "error: 2 processes were started, but robe sweep"),
    ],
    ids=["output", "usage", "sweep"],
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
    """Its variables are not those of the MPI that is installed."""
    command = [ROBE, "train", dataset.path, "-o", tmp_path / "run", *OPTIONS]
    told = {"OMPI_COMM_WORLD_SIZE": "2", "PYTHONWARNINGS": "ignore"}  # mpi4py may warn too
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
