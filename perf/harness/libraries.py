"""torch, or None where it is not installed.

robe_numba must be imported before torch. It limits how long idle OpenMP threads spin, unless the
user chose otherwise, and OpenMP reads that setting once, when it is loaded.
"""

import os
import sys

import robe_numba  # noqa: F401  (before torch)

OPENMP = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")

try:
    import torch
except ImportError:
    torch = None


def openmp_policy() -> dict[str, str | None]:
    """How long idle OpenMP threads spin, according to the environment."""
    return {name: os.environ.get(name) for name in OPENMP}


def torch_is_first() -> bool:
    """Whether torch was imported before robe_numba; see `torch_first`."""
    imported = list(sys.modules)
    return "torch" in imported and imported.index("torch") < imported.index("robe_numba")
