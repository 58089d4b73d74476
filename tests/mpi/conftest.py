"""Tests that every rank of a launcher runs alike; the first that fails on any ends all."""

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
SECONDS = 150  # after which a test that hangs says where, and ends


def pytest_ignore_collect(collection_path, config):
    """Not one of several; or tests of the GPU and none to simulate it, or the other way round."""
    of_gpu = collection_path.name == "test_gpu.py"
    return True if STARTED is None or (collection_path.is_file() and of_gpu != SIMULATED) else None


if STARTED is not None:
    from mpi4py import MPI

    from robe_numba.parallel.mpi_group import MPIGroup

    def end_all(report):
        """Say what failed here, and end the whole job: the others would wait for this rank."""
        parts = [report.nodeid, report.longreprtext, *(text for _, text in report.sections)]
        sys.stderr.write("\n".join([f"\nrank {STARTED[0]} of {STARTED[1]}:", *parts, ""]))
        sys.stderr.flush()
        time.sleep(0.5)  # in which others may say what failed there
        MPI.COMM_WORLD.Abort(1)
        os._exit(1)  # of some MPI that returns

    def pytest_runtest_logreport(report):
        """No test follows one that failed."""
        if report.failed:
            end_all(report)

    def pytest_collectreport(report):
        """No test begins where one cannot be read."""
        if report.failed:
            end_all(report)

    def pytest_configure(config):
        """Keep standard error, which tests do not have."""
        global standard_error
        standard_error = os.dup(2)

    @pytest.fixture(autouse=True)
    def no_hanging():
        """Where threads wait for ever, say where, and end."""
        faulthandler.dump_traceback_later(SECONDS, exit=True, file=standard_error)
        yield
        faulthandler.cancel_dump_traceback_later()

    @pytest.fixture(autouse=True)
    def one_thread():
        """Of each rank: the machine may have fewer cores than there are ranks."""
        before = numba.get_num_threads()
        numba.set_num_threads(1)
        yield
        numba.set_num_threads(before)

    @pytest.fixture(scope="session")
    def group():
        """All processes."""
        return MPIGroup()

    @pytest.fixture(scope="session")
    def shared_folder(group):
        """A folder that all ranks see."""
        with tempfile.TemporaryDirectory() if group.is_root else nullcontext() as name:
            yield Path(group.broadcast(name))
            group.all_gather(None)  # nobody needs it any more

    @pytest.fixture
    def folder(group, shared_folder, request):
        """A folder of one test, which all ranks see."""
        path = shared_folder / request.node.name
        group.at_root(path.mkdir)
        return path

    @pytest.fixture(scope="session")
    def dataset(group, shared_folder):
        """2500 generated clicks in many small shards; 2000 of them train, 8 steps of 256 rows."""
        path = shared_folder / "data"

        def make():
            Generator(seed=5, scale=0.001).write(shared_folder / "clicks.tsv", 2500)
            data_tools.ingest(shared_folder / "clicks.tsv", path, shard_bytes=30_000)

        group.at_root(make)
        return Dataset(path)
