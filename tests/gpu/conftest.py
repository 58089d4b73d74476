"""Where GPU arrays come from: Numba's simulator, or CuPy."""

import warnings

import pytest
from hypothesis import settings
from numba import config as numba_config

SIMULATED = bool(numba_config.ENABLE_CUDASIM)
# A simulated GPU thread is one of Python's: examples take tenths of a second and more.
settings.register_profile("simulated", settings.get_profile("default"), max_examples=20)


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
    from robe_numba.gpu.device import array_library

    return array_library().asarray(array)


def to_cpu(array):
    """A NumPy copy of a GPU array."""
    return array.get()
