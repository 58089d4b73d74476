"""Settings of all tests, and what several files use."""

import pytest
from hypothesis import HealthCheck, settings

from robe_numba.cpu import launch

# Kernels compile at their first call, so a single example has no deadline.
settings.register_profile(
    "default", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("default")


@pytest.fixture
def threads_for_everything(monkeypatch):
    """Let the smallest call use all threads."""
    monkeypatch.setattr(launch, "ELEMENTS_PER_THREAD", 1)
