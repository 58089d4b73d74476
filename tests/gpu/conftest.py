"""Where GPU arrays come from: Numba's simulator, or CuPy."""

import warnings

import numba
import numpy as np
import pytest
from hypothesis import settings

SIMULATED = bool(numba.config.ENABLE_CUDASIM)
# A simulated GPU thread is one of Python's: examples take tenths of a second.
settings.register_profile("simulated", settings.get_profile("default"), max_examples=30)


def pytest_ignore_collect(collection_path, config):
    """Neither simulated nor asked for."""
    return None if SIMULATED or config.getoption("--gpu") else True


if SIMULATED:
    settings.load_profile("simulated")

    @pytest.fixture(autouse=True)
    def wrap_around_quietly():
        """Hashes overflow on purpose, which NumPy's numbers report where machine code does not."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "overflow encountered", RuntimeWarning)
            yield


def to_gpu(array):
    """A GPU's copy of a NumPy array."""
    if SIMULATED:
        from numba import cuda

        return cuda.to_device(np.ascontiguousarray(array))
    import cupy

    return cupy.asarray(array)


def to_cpu(array):
    """A NumPy copy of a GPU array."""
    return array.copy_to_host() if SIMULATED else array.get()
