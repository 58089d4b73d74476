"""How many threads a call is worth, and where threads cannot be had."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import numba

# Waking a thread takes tens of microseconds, in which another copies about so many elements.
ELEMENTS_PER_THREAD = 1 << 16

# Between two kernels GNU OpenMP's threads would spin for milliseconds, on cores that others could
# use: matrix products, data loaders, other programs. Not to spin at all costs a wake-up of 70
# microseconds per kernel. So many turns take about 0.2 milliseconds. OpenMP reads this when its
# first kernel starts.
if not os.environ.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}:
    os.environ["GOMP_SPINCOUNT"] = "10000"

_one_at_a_time = threading.RLock()
_first_process: int | None = None  # the process whose threads Numba started


def _threading_layer() -> str | None:
    """Numba's threading layer; None until the first parallel kernel has chosen it."""
    try:
        return str(numba.threading_layer())
    except ValueError:
        return None


def _check_process(layer: str | None) -> None:
    """Refuse to launch where OpenMP would end the process without a word to Python."""
    global _first_process
    if _first_process is None or layer is None:
        _first_process = os.getpid()
    elif layer == "omp" and _first_process != os.getpid():
        raise RuntimeError(
            "this process was forked after a parallel kernel had run, which OpenMP's threads do "
            'not survive; start processes with multiprocessing.get_context("spawn"), or set '
            "NUMBA_THREADING_LAYER=workqueue"
        )


@contextmanager
def threads_for(elements: int) -> Iterator[int]:
    """Run kernels within the block on as many of Numba's threads as the work is worth.

    No kernel's result depends on the number. Python threads may call kernels at once; under
    Numba's "workqueue" layer, which cannot do that, they take turns.

    Parameters
    ----------
    elements : how many the kernels read or write.

    Yields
    ------
    the number of threads, at least 1

    Raises
    ------
    RuntimeError : in a process forked from one that ran a kernel with OpenMP.
    """
    layer = _threading_layer()
    _check_process(layer)
    allowed = numba.get_num_threads()
    threads = max(1, min(allowed, elements // ELEMENTS_PER_THREAD))
    with _one_at_a_time if layer in (None, "workqueue") else nullcontext():
        if threads == allowed:
            yield threads
            return
        numba.set_num_threads(threads)
        try:
            yield threads
        finally:
            numba.set_num_threads(allowed)
