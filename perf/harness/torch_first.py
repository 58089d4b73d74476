"""Run a benchmark in a process that imports torch before robe_numba, as most programs do.

python -m perf.harness.torch_first bench_torch --shape S1
"""

import runpy
import sys

import torch  # noqa: F401

if __name__ == "__main__":
    del sys.argv[0]
    runpy.run_module(f"perf.{sys.argv[0]}", run_name="__main__")
