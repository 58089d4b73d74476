"""Packages that only the extra `test-all` installs, and the tests that need them."""

from importlib.metadata import PackageNotFoundError, distribution

import pytest

GPU = ("numba-cuda", "nvidia-cuda-nvcc")  # which compile and simulate kernels without a GPU
MPI = ("mpi4py", "mpich")
ONNX = ("onnx", "onnxruntime")
SERVE = ("httptools", "prometheus_client", "uvicorn", "uvloop")


def need(*packages):
    """Skip a test, or a module at its import, unless all packages are installed.

    A package that is installed but cannot be imported still fails the tests that import it.
    """
    lacking = missing(*packages)
    if lacking:
        reason = f"needs {', '.join(lacking)}: pip install -e '.[test-all]'"
        pytest.skip(reason, allow_module_level=True)


def missing(*packages):
    """Those that are not installed."""
    return [name for name in packages if not _is_installed(name)]


def _is_installed(name):
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True
