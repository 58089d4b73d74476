"""Collects these tests on a real GPU only."""

from tests.gpu.conftest import SIMULATED


def pytest_ignore_collect(collection_path, config):
    """Collect nothing in the simulator, which has no streams and is too slow for large arrays."""
    return True if SIMULATED else None
