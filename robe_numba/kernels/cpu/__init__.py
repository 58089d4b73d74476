"""The kernels on NumPy arrays. They trust: `robe_numba.checks.arrays` has seen every argument."""

import robe_numba._jit  # noqa: F401 - before Numba, which knows less about what is wrong
