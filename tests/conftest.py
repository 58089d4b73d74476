"""Settings of all tests, and what several files use.

Nothing of ours, and so no Numba and no PyArrow, is imported before `pytest_configure`: with --gpu
their warnings are only shown, from there on.
"""

import os
import threading
import warnings
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, settings

from tests.support.needs import missing

# Kernels compile at their first call, so a single example has no deadline.
settings.register_profile(
    "default", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("default")

TESTS = Path(__file__).parent
# Folders of tests, and packages that are too large to be installed for these tests alone.
NEEDS = {
    "examples": ("torch",),
    "jax": ("jax",),
    "onnx": ("onnx", "onnxruntime"),
    "torch": ("torch", "expecttest"),
}


@cache
def left_out():
    """Folders whose packages are not all installed, each with those that are missing."""
    lacking = {TESTS / folder: missing(*packages) for folder, packages in NEEDS.items()}
    return {folder: names for folder, names in lacking.items() if names and folder.is_dir()}


def pytest_ignore_collect(collection_path):
    """Leave these folders out."""
    inside = (collection_path, *collection_path.parents)
    return True if any(folder in inside for folder in left_out()) else None


def pytest_report_header():
    """Say which they are."""
    folders = [f"tests/{path.name} ({', '.join(names)})" for path, names in left_out().items()]
    return f"left out, as packages are not installed: {', '.join(folders)}" if folders else None


def pytest_addoption(parser):
    parser.addoption("--gpu", action="store_true", help="run tests/gpu on the GPU as well")


def pytest_configure(config):
    """Refuse --gpu once, not in every test; with it no warning is an error.

    The machines that have a GPU have versions of other packages that nobody has tried.
    """
    if not config.getoption("--gpu"):
        return
    others = [line for line in config.getini("filterwarnings") if line != "error"]
    for line in ("default", *others):  # the last that fits counts
        config.addinivalue_line("filterwarnings", line)
    warnings.simplefilter("default")  # outside of tests
    from robe_numba.ops.devices import gpu_module

    try:
        gpu_module("device").check_gpu()
    except (ImportError, OSError) as error:
        raise pytest.UsageError(f"--gpu: {error}") from None


@pytest.fixture
def threads_for_everything(monkeypatch):
    """Let the smallest call use all threads."""
    monkeypatch.setattr("robe_numba.kernels.cpu.launch.ELEMENTS_PER_THREAD", 1)


@pytest.fixture
def set_workers(monkeypatch):
    """Call it with the number of workers that kernels shall have, whatever threads there are."""

    def set_to(count):
        from robe_numba import ops

        for module in vars(ops).values():  # all that choose a number of threads
            if isinstance(module, ModuleType) and hasattr(module, "threads_for"):
                monkeypatch.setattr(module, "threads_for", lambda elements: count)

    return set_to


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk():
    """Hundreds of small datasets are written, none of which must survive a loss of power."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    """2500 generated clicks, of which 2000 train: 8 steps of 256 rows."""
    from data_tools import Dataset, ingest
    from data_tools.synthetic.generator import Generator

    folder = tmp_path_factory.mktemp("log")
    Generator(seed=5, scale=0.001).write(folder / "clicks.tsv", 2500)
    ingest(folder / "clicks.tsv", folder / "data")
    return Dataset(folder / "data")


@pytest.fixture(scope="module")
def small_windows():
    """Windows of 20 rows, so that small splits have many."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("data_tools.loader.shuffle.WINDOW_ROWS", 20)
        yield


@pytest.fixture
def robe():
    """Runs `robe` in this process; its exit status and all that it wrote."""
    from tests.support.commands import run_robe

    def call(*arguments):
        status, output, errors = run_robe(*arguments)
        return status, output + errors

    return call


def readers_running():
    """Threads that read ahead."""
    from data_tools.loader.read_ahead import THREAD_NAME

    return [t for t in threading.enumerate() if t.name.startswith(THREAD_NAME)]


@pytest.fixture
def no_thread_stays():
    """None of those that read ahead outlives the test."""
    yield
    assert readers_running() == []
