"""Where GPU arrays come from: Numba's simulator, or CuPy. Neither is imported at once, see
`tests/conftest.py`.
"""

import os
import warnings

import pytest

SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM", "0") != "0"


def pytest_ignore_collect(collection_path, config):
    """Neither simulated nor asked for."""
    return None if SIMULATED or config.getoption("--gpu") else True


if SIMULATED:

    @pytest.fixture(scope="session", autouse=True)
    def threads_take_turns():
        """Rather than being polled by Numba."""
        from tests.gpu import simulator

        simulator.install()

    @pytest.fixture(autouse=True)
    def wrap_around_quietly():
        """Hashes overflow on purpose, which NumPy's numbers report where machine code does not."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "overflow encountered", RuntimeWarning)
            yield


@pytest.fixture
def gpu_memory():
    """Call it with the bytes that a test needs, to skip it where they are not free; afterwards the
    tests beside it can have them.
    """
    import cupy

    def require(num_bytes):
        free, _ = cupy.cuda.runtime.memGetInfo()
        if free < num_bytes:
            pytest.skip(f"the GPU has {free / 2**30:.0f} GiB free of {num_bytes / 2**30:.0f}")

    yield require
    cupy.get_default_memory_pool().free_all_blocks()


def to_gpu(array):
    """A GPU's copy of a NumPy array."""
    from robe_numba.kernels.gpu.arrays import array_library

    return array_library().asarray(array)


def to_cpu(array):
    """A NumPy copy of a GPU array."""
    return array.get()
