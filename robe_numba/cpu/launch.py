"""How many threads a call is worth."""

from collections.abc import Iterator
from contextlib import contextmanager

import numba

# Waking a thread takes tens of microseconds, in which another copies about so many elements.
ELEMENTS_PER_THREAD = 1 << 16


@contextmanager
def threads_for(elements: int) -> Iterator[int]:
    """Run kernels within the block on as many of Numba's threads as the work is worth.

    No kernel's result depends on the number.

    Parameters
    ----------
    elements : how many the kernels read or write.

    Yields
    ------
    the number of threads, at least 1
    """
    allowed = numba.get_num_threads()
    threads = max(1, min(allowed, elements // ELEMENTS_PER_THREAD))
    numba.set_num_threads(threads)
    try:
        yield threads
    finally:
        numba.set_num_threads(allowed)
