"""Benchmarks of robe_numba; `python -m perf.run_all` runs most of them."""
