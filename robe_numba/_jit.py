"""The one way to compile a function here: Numba, cached on disk, never stale (see `_cache`)."""

from collections.abc import Callable
from typing import Any

from robe_numba._environment import check_environment

check_environment()  # before Numba, whose own errors do not name the variable

import numba  # noqa: E402

from robe_numba._cache import keep  # noqa: E402

# The simulator of a GPU needs compilation disabled, and then no kernel for the CPU is called.
if numba.config.DISABLE_JIT and not numba.config.ENABLE_CUDASIM:
    raise ImportError(
        "NUMBA_DISABLE_JIT is set, but kernels on vectors run only when they are compiled; unset it"
    )


def jit(function: Callable | None = None, **options: Any) -> Any:
    """Compile `function` lazily with `numba.njit`: cached, without the GIL, IEEE division.

    Options are those of `numba.njit` (`parallel`, `fastmath`, `forceinline`).
    """
    if function is None:
        return lambda inner: jit(inner, **options)
    return keep(numba.njit(nogil=True, error_model="numpy", **options)(function), function)


def scalar(function: Callable) -> Any:
    """Compile a function of numbers into each of its callers; Python may call it too."""
    return jit(function, forceinline=True, _nrt=False)


def inner(function: Callable) -> Any:
    """Compile a function that kernels call and that makes no arrays.

    It counts no references to arrays: the count is atomic, on a cache line that all threads share,
    and would cost more than a short block.
    """
    return jit(function, _nrt=False, no_cpython_wrapper=True, no_cfunc_wrapper=True)


def inlined(function: Callable) -> Any:
    """As `inner`, but compiled into each caller: for functions that run once per block or row.

    A call would pass every field of a spec.
    """
    options = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    return jit(function, forceinline=True, _nrt=False, **options)
