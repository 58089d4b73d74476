"""torch, or None where it is not installed; to be imported before robe_numba.

robe_numba tells OpenMP's threads to spin for a short time only between kernels, unless the user
chose otherwise, and that might slow torch down. An OpenMP library reads the setting when it is
loaded: loaded first, torch's own keeps its default.
"""

import os
import sys

assert "robe_numba" not in sys.modules, "import libraries (or shapes) before robe_numba"
OPENMP = {name: os.environ.get(name) for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}  # peers'

try:
    import torch
except ImportError:
    torch = None

__all__ = ["OPENMP", "torch"]
