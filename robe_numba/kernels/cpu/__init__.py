"""Kernels on NumPy arrays. They check nothing: `robe_numba.checks` has checked every argument."""

import robe_numba._jit  # noqa: F401 - before Numba, whose errors say less
