"""torch, or None where it is not installed; loaded after robe_numba.

robe_numba lets GNU OpenMP's threads spin for a short time only between kernels, unless the user
chose otherwise, and OpenMP reads that when it is loaded: so one policy holds for all.
"""

import os

import robe_numba  # noqa: F401  (before torch; see above)
from perf.harness import checkout  # noqa: F401  (first; see there)

OPENMP = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")

try:
    import torch
except ImportError:
    torch = None


def openmp_policy() -> dict[str, str | None]:
    """How long OpenMP's idle threads spin, as told by the environment."""
    return {name: os.environ.get(name) for name in OPENMP}
