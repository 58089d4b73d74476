"""Settings of tests with PyTorch."""

import pytest
from torch._inductor import config


@pytest.fixture(scope="session", autouse=True)
def _no_old_graphs():
    """Compile again: torch keeps compiled graphs on disk by the names of operators, not their code."""
    with config.patch(force_disable_caches=True):
        yield
