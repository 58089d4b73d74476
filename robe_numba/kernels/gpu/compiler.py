"""Numba's compiler for CUDA, imported only here, so that a successor can take its place."""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba import cuda

from robe_numba import _cache

SIMULATED = bool(numba.config.ENABLE_CUDASIM)

if SIMULATED:
    from numba import types
    from numba.cuda.simulator.cudadrv.devicearray import FakeCUDAArray
else:
    from numba.cuda import cgutils, types
    from numba.cuda.dispatcher import CUDACache
    from numba.cuda.extending import intrinsic
    from numba.cuda.np.numpy_support import from_dtype

    if not hasattr(np, "row_stack"):
        # numba-cuda 0.30 uses a function that NumPy 2.5 removed. Define it while numba-cuda loads.
        vars(np)["row_stack"] = np.vstack
        try:
            import numba.cuda.cudaimpl
        finally:
            del vars(np)["row_stack"]

__all__ = [
    "SIMULATED",
    "FakeCUDAArray",
    "cgutils",
    "cuda",
    "from_dtype",
    "function",
    "inlined",
    "intrinsic",
    "jit",
    "types",
]


def function(python: Callable) -> Any:
    """Compile a function that kernels call."""
    return cuda.jit(device=True)(python)


def inlined(python: Callable) -> Any:
    """As `function`, but inline it at each call, so that the constants there are known."""
    if SIMULATED:
        return function(python)
    return cuda.jit(device=True, forceinline=True)(python)


def jit(python: Callable, max_registers: int | None = None) -> Any:
    """Compile a kernel, cached on disk as `robe_numba._cache` keeps the host's.

    With fewer registers than the compiler would take, more warps can wait for memory at a time.
    """
    if SIMULATED:
        return cuda.jit(python)
    return _cache.keep(cuda.jit(max_registers=max_registers)(python), python, CUDACache)
