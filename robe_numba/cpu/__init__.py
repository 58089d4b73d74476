"""The kernels on NumPy arrays. They trust: `robe_numba.checks` has seen every argument."""
