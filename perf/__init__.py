"""Benchmarks of robe_numba; `python -m perf.run_all` runs most of them."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent  # the checkout
