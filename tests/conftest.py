"""Settings of all tests."""

from hypothesis import HealthCheck, settings

# Kernels compile at their first call, so a single example has no deadline.
settings.register_profile(
    "default", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("default")
