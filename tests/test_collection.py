"""How tests start: what they import, and which warnings end them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.needs import GPU, need

ROOT = Path(__file__).resolve().parents[1]
# Packages that a machine with a GPU need not have for the tests in tests/gpu.
NOT_NEEDED = (
    "distributed",
    "fsspec",
    "isal",
    "matplotlib",
    "mpi4py",
    "rich",
    "safetensors",
    "tensorboard",
    "typer",
)
WITHOUT = """
import sys
sys.modules |= dict.fromkeys(sys.argv[1].split(","))  # so that importing one fails
import pytest
sys.exit(pytest.main(sys.argv[2:]))
"""


@pytest.fixture(autouse=True)
def _simulator():
    need(*GPU)


def run_pytest(*arguments, start=("-m", "pytest")):
    """Its exit code and output, with the simulator for a GPU."""
    environment = os.environ | {"NUMBA_ENABLE_CUDASIM": "1", "NUMBA_DISABLE_JIT": "1"}
    command = [sys.executable, *start, "-n0", "-q", "-p", "no:cacheprovider", *map(str, arguments)]
    finished = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    return finished.returncode, finished.stdout + finished.stderr


def test_tests_of_a_gpu_need_few_packages():
    start = ("-c", WITHOUT, ",".join(NOT_NEEDED))
    code, output = run_pytest("--gpu", "tests/gpu", "-k", "test_feeding", start=start)
    assert code == 0, output  # all are collected, some are run
    assert " deselected" in output


AT_IMPORT = """
import warnings
warnings.warn("of another package", DeprecationWarning)
def test_nothing():
    pass
"""
IN_A_TEST = """
import warnings
def test_warning():
    warnings.warn("of a function", FutureWarning)
"""


def test_a_warning_is_an_error_but_on_a_gpu(tmp_path):
    files = {"test_import.py": AT_IMPORT, "test_call.py": IN_A_TEST}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    configuration = ("-c", ROOT / "pyproject.toml", "-p", "tests.conftest")
    options = (*configuration, "--continue-on-collection-errors", tmp_path)
    code, output = run_pytest(*options)
    assert code != 0, output
    assert "1 failed, 1 error" in output
    code, output = run_pytest("--gpu", *options)
    assert code == 0, output
    assert "of another package" in output
    assert "of a function" in output


def test_settings_import_nothing_that_may_warn():
    """Before they are configured, warnings are errors with --gpu too."""
    check = "import sys, tests.gpu.conftest, tests.conftest; print(*sys.modules)"
    command = [sys.executable, "-W", "error", "-c", check]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(finished.stdout.split())
    assert not loaded & {"numba", "pyarrow", "cupy", "robe_numba", "data_tools"}
