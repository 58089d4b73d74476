"""Where GPU arrays come from: Numba's simulator, or CuPy.

Neither is imported at the top; `tests/conftest.py` says why.
"""

import os

import pytest

SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM", "0") != "0"


def pytest_ignore_collect(collection_path, config):
    """Collect nothing unless the GPU is simulated or --gpu asks for it."""
    return None if SIMULATED or config.getoption("--gpu") else True


if SIMULATED:

    @pytest.fixture(scope="session", autouse=True)
    def faster_simulator():
        """Let simulated threads take turns, not be polled by Numba."""
        from tests.gpu import simulator

        simulator.install()


@pytest.fixture
def gpu_memory():
    """Call it with the bytes that a test needs: it skips the test if fewer are free.

    Afterwards the memory is free for other tests.
    """
    import cupy

    def require(num_bytes):
        free, _ = cupy.cuda.runtime.memGetInfo()
        if free < num_bytes:
            pytest.skip(f"the GPU has {free / 2**30:.0f} GiB free of {num_bytes / 2**30:.0f}")

    yield require
    cupy.get_default_memory_pool().free_all_blocks()


def to_gpu(array):
    """Copy a NumPy array to the GPU."""
    from robe_numba.kernels.gpu.arrays import array_library

    return array_library().asarray(array)


def to_cpu(array):
    """Copy a GPU array to the host."""
    return array.get()
