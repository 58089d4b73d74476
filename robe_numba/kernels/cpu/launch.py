"""How many threads a call is worth, and what keeps threads from running."""

import os
from collections.abc import Callable
from typing import Any, TypeVar

import numba
from numba.np.ufunc import parallel

from robe_numba._locks import renewed_lock

Result = TypeVar("Result")

# Waking a thread takes tens of microseconds; another thread copies this many elements meanwhile.
ELEMENTS_PER_THREAD = 1 << 16

_one_at_a_time = renewed_lock()
_first_process: int | None = None  # the process whose threads Numba started


def _threading_layer() -> str | None:
    """Numba's threading layer; None until it was asked for its number of threads."""
    try:
        return str(numba.threading_layer())
    except ValueError:
        return None


def _check_process(layer: str | None) -> None:
    """Refuse to launch where OpenMP would end the process without an error in Python."""
    global _first_process
    if _first_process is None or layer is None:
        _first_process = os.getpid()
    elif layer == "omp" and _first_process != os.getpid():
        raise RuntimeError(
            "this process was forked after a parallel kernel had run, which OpenMP's threads do "
            'not survive; start processes with multiprocessing.get_context("spawn"), or set '
            "NUMBA_THREADING_LAYER=workqueue"
        )


def num_threads() -> int:
    """How many threads Numba may use now; its own function takes locks at each call."""
    return int(getattr(parallel, "_get_num_threads", numba.get_num_threads)())


def threads_for(elements: int) -> int:
    """How many threads work is worth: at least 1, and at most those that Numba may use now.

    No kernel's result depends on the number.

    Parameters
    ----------
    elements : int
        How many the kernels read or write.

    Returns
    -------
    int
        Threads.

    Raises
    ------
    RuntimeError
        In a process forked from one that ran a kernel with OpenMP.
    """
    _check_process(_threading_layer())
    return max(1, min(num_threads(), elements // ELEMENTS_PER_THREAD))


def launch(num_workers: int, kernel: Callable[..., Result], *arguments: Any) -> Result:
    """Run a parallel kernel on `num_workers` workers and return its result.

    Python threads may launch kernels at once; under Numba's "workqueue" layer, which cannot do
    that, they take turns.
    """
    if _threading_layer() == "workqueue":
        with _one_at_a_time:
            return on_threads(num_workers, kernel, *arguments)
    return on_threads(num_workers, kernel, *arguments)


def on_threads(most: int, function: Callable[..., Result], *arguments: Any) -> Result:
    """Call a function with kernels on at most `most` of Numba's threads, and return its result."""
    allowed = num_threads()
    if most >= allowed:
        return function(*arguments)
    # Not Numba's own function, which is Python code: an interrupt within it would leave the number
    # changed. This one is machine code, so interrupts come before or after it.
    set_num_threads = parallel._set_num_threads
    try:
        set_num_threads(most)
        return function(*arguments)
    finally:
        set_num_threads(allowed)
