"""Timing of contenders against each other: interleaved, shuffled, medians."""

import ctypes
import gc
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numba
import numpy as np

from perf.harness.places import here

WARM_UP = 2  # untimed rounds: compilation, first touch of memory, waking of threads
PAUSE = 0.01  # seconds; GNU OpenMP's threads by default spin for about half of it
LEAD = 2  # untimed calls in each turn
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


@dataclass(frozen=True)
class Contender:
    """Something to time.

    Parameters
    ----------
    name : as it stands in tables.
    run : one call of what is timed; None if it cannot run here, and `note` says why.
    role : "ours", "peer" or "floor" (what nothing can beat, as a copy of the output).
    block_size : Z, of those that have one.
    note : anything a reader should know.
    peak_bytes : most memory that one call allocates, where it was measured.
    bytes : read and written, where that is other than what the work says.
    """

    name: str
    run: Callable[[], object] | None
    role: str = "ours"
    block_size: int | None = None
    note: str = ""
    peak_bytes: int | None = None
    bytes: int | None = None


@dataclass(frozen=True)
class Work:
    """What the contenders of a race all do, on which shape, and how much it is."""

    bench: str
    shape: str
    work: str
    items: int  # embeddings, starts or samples
    output_bytes: int | None = None
    bytes: int | None = None  # read and written, at the least
    x: float | None = None  # the value of what a sweep varies


@dataclass(frozen=True)
class Row(Work):
    """The result of one contender in one race; times in milliseconds, None if absent."""

    contender: str = ""
    role: str = "ours"
    block_size: int | None = None
    note: str = ""
    peak_bytes: int | None = None
    threads: int = 1
    device: str = "cpu"
    ms: float | None = None
    lower_quartile: float | None = None
    upper_quartile: float | None = None


def race(work: Work, contenders: Sequence[Contender], repeats: int) -> list[Row]:
    """Time contenders in turns, each round in another order (the same in every run).

    The idle threads of a library spin for milliseconds after its call, on a core that another's
    threads need. So a turn begins with a pause, and with untimed calls that wake its own threads.
    """
    running = [c for c in contenders if c.run is not None]
    times: dict[int, list[float]] = {id(contender): [] for contender in running}
    order = np.random.default_rng(0)
    with no_garbage_collection():
        for repeat in range(WARM_UP + repeats):
            for position in order.permutation(len(running)):
                contender = running[position]
                keep_busy(PAUSE)
                for _ in range(LEAD):
                    contender.run()
                elapsed = here().milliseconds(contender.run)
                if repeat >= WARM_UP:
                    times[id(contender)].append(elapsed)
    return [_row(work, contender, times.get(id(contender))) for contender in contenders]


def _row(work: Work, contender: Contender, times: list[float] | None) -> Row:
    absent = (None, None, None)
    low, median, high = absent if times is None else map(float, np.percentile(times, (25, 50, 75)))
    moved = work.bytes if contender.bytes is None else contender.bytes
    return Row(
        **vars(replace(work, bytes=moved)),
        contender=contender.name,
        role=contender.role,
        block_size=contender.block_size,
        note=contender.note,
        peak_bytes=contender.peak_bytes,
        threads=numba.get_num_threads(),
        device=here().device,
        ms=median,
        lower_quartile=low,
        upper_quartile=high,
    )


def keep_busy(seconds: float) -> None:
    """Wait without sleeping: a machine that idles gets slower, for longer than a short call."""
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Whoever happens to allocate would pay for everybody's garbage."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def keep_memory() -> None:
    """Let glibc's malloc keep freed memory of up to 32 MiB a piece, the most that it allows.

    Otherwise it maps every output of more than 128 KiB anew and the system zeroes it page by page,
    which makes peers that allocate their output look nearly twice as slow.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, 32 << 20)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
