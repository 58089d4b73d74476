"""How tests start: what they import, and which warnings end them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
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


def run_pytest(*arguments, start=("-m", "pytest")):
    """Its exit code and output, with the simulator for a GPU."""
    environment = os.environ | {"NUMBA_ENABLE_CUDASIM": "1", "NUMBA_DISABLE_JIT": "1"}
    command = [sys.executable, *start, "-n0", "-q", "-p", "no:cacheprovider", *map(str, arguments)]
    finished = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    return finished.returncode, finished.stdout + finished.stderr


def test_tests_of_a_gpu_need_few_packages():
    start = ("-c", WITHOUT, ",".join(NOT_NEEDED))
    code, output = run_pytest("--gpu", "--collect-only", "tests/gpu", start=start)
    assert code == 0, output
    assert "test_lookup_equals_the_oracle" in output
    code, output = run_pytest("--gpu", "tests/gpu/test_feeding.py", start=start)
    assert code == 0, output


AT_IMPORT = """
import warnings
warnings.warn("of another package", DeprecationWarning)
def test_nothing():
    pass
"""
IN_A_TEST = """
import warnings
def test_warning():
    warnings.warn("of another package", FutureWarning)
"""


@pytest.mark.parametrize("text", [AT_IMPORT, IN_A_TEST], ids=["at import", "in a test"])
def test_a_warning_is_an_error_but_on_a_gpu(text, tmp_path):
    (tmp_path / "test_it.py").write_text(text)
    options = ("-c", ROOT / "pyproject.toml", "-p", "tests.conftest", tmp_path / "test_it.py")
    code, output = run_pytest(*options)
    assert code != 0, output
    code, output = run_pytest("--gpu", *options)
    assert code == 0, output
    assert "of another package" in output


def test_settings_import_nothing_that_may_warn():
    """Before they are configured, warnings are errors with --gpu too."""
    check = "import sys, tests.gpu.conftest, tests.conftest; print(*sys.modules)"
    command = [sys.executable, "-W", "error", "-c", check]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(finished.stdout.split())
    assert not loaded & {"numba", "pyarrow", "cupy", "robe_numba", "data_tools"}
