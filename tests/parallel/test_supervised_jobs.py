"""Supervisors below mpiexec: what happens to one rank ends the job, with its name."""

import signal
import time

import pytest

from tests.parallel.jobs import COUNT, MPIEXEC, finish
from tests.support import needs
from tests.support.needs import need

need(*needs.MPI)

MPI = "from mpi4py import MPI\nrank, size = MPI.COMM_WORLD.rank, MPI.COMM_WORLD.size\n"


def test_mpi_reaches_the_workers(start):
    process = start(MPI + "say(rank, size, supervisor.launched())", launcher=[MPIEXEC, "-n", "3"])
    output, errors = finish(process)
    assert sorted(output.splitlines()) == [f"{rank} 3 ({rank}, 3)" for rank in range(3)]
    assert (errors, process.returncode) == ("", 0)


KILL = "if supervisor.launched()[0] == 1:\n    os.kill(os.getpid(), signal.SIGKILL)\n"


def test_an_error_of_one_rank_before_mpi_ends_the_job(start):
    code = "if supervisor.launched()[0] == 1:\n    sys.exit('no MPI here')\n" + MPI
    begun = time.monotonic()
    process = start(code + "MPI.COMM_WORLD.Barrier()", launcher=[MPIEXEC, "-n", "2"])
    output, errors = finish(process)
    assert time.monotonic() - begun < 20
    assert process.returncode != 0
    assert "no MPI here" in output + errors


@pytest.mark.parametrize("code", [MPI + KILL, KILL + MPI], ids=["with MPI", "before MPI"])
def test_a_killed_rank_ends_the_job(start, code):
    begun = time.monotonic()
    process = start(code + "MPI.COMM_WORLD.Barrier()", launcher=[MPIEXEC, "-n", "3"])
    output, errors = finish(process)
    assert time.monotonic() - begun < 20
    assert process.returncode != 0
    (line,) = [line for line in (output + errors).splitlines() if "error: rank" in line]
    assert line.startswith("error: rank 1 of 3 (process ")
    assert " was killed by SIGKILL; " in line


def test_ctrl_c_of_a_job_reaches_each_worker_once(start):
    process = start(
        MPI + COUNT + "say('ready')\nsay(f'{rank} counts', count())", launcher=[MPIEXEC, "-n", "3"]
    )
    assert [process.stdout.readline() for _ in range(3)] == ["ready\n"] * 3
    process.send_signal(signal.SIGINT)
    output, errors = finish(process)
    counts = [line for line in output.splitlines() if "counts" in line]
    assert sorted(counts) == [f"{rank} counts 1" for rank in range(3)]
    assert "error:" not in errors
