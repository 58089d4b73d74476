"""What the environment tells Numba, checked before Numba is imported: it would answer with a long
traceback that does not name the variable.
"""

import os


def check_environment() -> None:
    """Require a number of threads, if there is one.

    Raises
    ------
    ValueError : NUMBA_NUM_THREADS is not a whole number of at least 1.
    """
    threads = os.environ.get("NUMBA_NUM_THREADS")
    if threads is not None and not (threads.strip().isdecimal() and int(threads) > 0):
        raise ValueError(
            f"NUMBA_NUM_THREADS is {threads!r}; it must be a whole number of at least 1, or unset "
            f"to use all cores"
        )
