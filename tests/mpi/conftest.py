"""Tests that each rank of a launcher runs; the first failure on any rank ends all."""

import faulthandler
import os
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

import numba
import pytest

import data_tools
from data_tools import Dataset
from data_tools.synthetic.generator import Generator
from robe_numba.parallel.supervisor import launched

STARTED = launched()
SIMULATED = bool(numba.config.ENABLE_CUDASIM)
SECONDS = 150  # after which a test that hangs prints its stacks and ends


def pytest_ignore_collect(collection_path, config):
    """Collect nothing without a launcher; in the simulator test_gpu.py, else all but that."""
    of_gpu = collection_path.name == "test_gpu.py"
    return True if STARTED is None or (collection_path.is_file() and of_gpu != SIMULATED) else None


if STARTED is not None:
    from mpi4py import MPI

    from data_tools.loader import shuffle
    from robe_numba.parallel.group import Alone
    from robe_numba.parallel.mpi_group import MPIGroup

    def end_all(report):
        """Print what failed, and end the whole job: the others would wait for this rank."""
        parts = [report.nodeid, report.longreprtext, *(text for _, text in report.sections)]
        sys.stderr.write("\n".join([f"\nrank {STARTED[0]} of {STARTED[1]}:", *parts, ""]))
        sys.stderr.flush()
        time.sleep(0.5)  # for others to print what failed there
        MPI.COMM_WORLD.Abort(1)
        os._exit(1)  # some MPI return from Abort

    def pytest_runtest_logreport(report):
        """End all at the first failure."""
        if report.failed:
            end_all(report)

    def pytest_collectreport(report):
        """End all if a test file cannot be imported."""
        if report.failed:
            end_all(report)

    def pytest_configure(config):
        """Keep standard error, which pytest captures during tests."""
        global standard_error
        standard_error = os.dup(2)
        if SIMULATED:
            from tests.gpu import simulator

            simulator.install()

    @pytest.fixture(autouse=True)
    def no_hanging():
        """Print stacks and end if a test takes too long."""
        faulthandler.dump_traceback_later(SECONDS, exit=True, file=standard_error)
        yield
        faulthandler.cancel_dump_traceback_later()

    @pytest.fixture(autouse=True)
    def one_thread():
        """One thread per rank: the machine may have fewer cores than there are ranks."""
        before = numba.get_num_threads()
        numba.set_num_threads(1)
        yield
        numba.set_num_threads(before)

    @pytest.fixture(scope="session")
    def group():
        """All processes."""
        return MPIGroup()

    @pytest.fixture(scope="session", autouse=True)
    def compiled(group):
        """Rank 0 compiles first: ranks that begin together would each compile the same."""
        if group.is_root and not SIMULATED:
            from tests.mpi.models import compile_steps

            compile_steps()
        barrier = MPI.COMM_WORLD.Ibarrier()
        while not barrier.Test():
            time.sleep(0.05)  # MPI's own waiting would keep a core busy

    @pytest.fixture(scope="session")
    def groups(group):
        """By size, the groups of the first ranks that have this one."""
        some = {1: Alone()} if group.is_root else {}
        for size in range(2, group.size + 1):
            member = group.rank < size
            part = MPI.COMM_WORLD.Split(0 if member else MPI.UNDEFINED, group.rank)
            if member:
                some[size] = MPIGroup(part)
        return some

    @pytest.fixture(autouse=True)
    def small_windows(monkeypatch):
        """Several windows in an epoch, each of several shards."""
        monkeypatch.setattr(shuffle, "WINDOW_ROWS", 600)

    @pytest.fixture(scope="session")
    def shared_folder(group):
        """A folder for all ranks."""
        with tempfile.TemporaryDirectory() if group.is_root else nullcontext() as name:
            yield Path(group.broadcast(name))
            group.all_gather(None)  # no rank needs it any more

    @pytest.fixture
    def folder(group, shared_folder, request):
        """A folder for all ranks in one test."""
        path = shared_folder / request.node.name
        group.at_root(path.mkdir)
        return path

    @pytest.fixture(scope="session")
    def dataset(group, shared_folder):
        """2500 generated clicks in many small shards; 2000 are training rows, 8 steps of 256."""
        path = shared_folder / "data"

        def make():
            Generator(seed=5, scale=0.001).write(shared_folder / "clicks.tsv", 2500)
            data_tools.ingest(shared_folder / "clicks.tsv", path, shard_bytes=30_000)

        group.at_root(make)
        return Dataset(path)
