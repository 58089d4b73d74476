"""Variables of the environment that Numba and OpenMP read: checked or set before they do."""

import os


def limit_spinning() -> None:
    """Let OpenMP's threads sleep soon after a kernel, unless the user chose otherwise.

    GNU's would spin for milliseconds on cores that others could use: matrix products, data loaders,
    other programs. Not spinning at all would cost a wake-up of 70 microseconds per kernel. The
    turns set here take about 0.2 milliseconds. OpenMP reads the variable when its first kernel
    starts, which may be another library's.
    """
    if not os.environ.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}:
        os.environ["GOMP_SPINCOUNT"] = "10000"


def check_environment() -> None:
    """Check the number of threads that Numba is told; Numba's own error does not name it.

    Raises
    ------
    ValueError
        NUMBA_NUM_THREADS is not a whole number of at least 1.
    """
    threads = os.environ.get("NUMBA_NUM_THREADS")
    if threads is not None and not (threads.strip().isdecimal() and int(threads) > 0):
        raise ValueError(
            f"NUMBA_NUM_THREADS is {threads!r}; it must be a whole number of at least 1, or unset "
            f"to use all cores"
        )
