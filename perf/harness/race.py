"""Time contenders against each other: interleaved, in shuffled order, as medians."""

import ctypes
import gc
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

import numba
import numpy as np

from perf.harness.places import here

WARM_UP = 2  # untimed rounds: compilation, first touch of memory, waking of threads
PAUSE = 0.01  # seconds; by default GNU OpenMP's threads spin for about half of it
LEAD = 2  # untimed calls at the start of each turn
Key = TypeVar("Key")
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # from glibc's malloc.h


@dataclass(frozen=True)
class Contender:
    """Something to time.

    Parameters
    ----------
    name : str
        The name shown in tables.
    run : callable or None
        One call of what is timed; None if it cannot run here, and `note` says why.
    role : str
        "ours", "peer" or "floor" (a lower bound, such as a copy of the output).
    block_size : int, optional
        Z, where there is one.
    note : str
        Anything a reader should know.
    peak_bytes : int, optional
        The most memory that one call allocates, where it was measured.
    bytes : int, optional
        Bytes read and written, where they differ from the workload's.
    output_bytes : int, optional
        Bytes of the output, where they differ from the workload's.
    """

    name: str
    run: Callable[[], object] | None
    role: str = "ours"
    block_size: int | None = None
    note: str = ""
    peak_bytes: int | None = None
    bytes: int | None = None
    output_bytes: int | None = None

    @property
    def call(self) -> Callable[[], object]:
        """`run` of a contender that can run here."""
        assert self.run is not None, self.note
        return self.run


@dataclass(frozen=True)
class Workload:
    """What all contenders of a race do, on which shape, and how much it is."""

    bench: str
    shape: str
    work: str
    items: int  # embeddings, starts or samples
    output_bytes: int | None = None
    bytes: int | None = None  # read and written, at least
    x: float | None = None  # the value of the parameter that a sweep varies


@dataclass(frozen=True)
class Row(Workload):
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


def race(
    work: Workload,
    contenders: Sequence[Contender],
    repeats: int,
    warm_up: int = WARM_UP,
    lead: int = LEAD,
    prepare: Callable[[], object] = lambda: None,
) -> list[Row]:
    """Time contenders in turns.

    Parameters
    ----------
    work : Workload
        What they do.
    contenders : sequence of Contender
        Those that cannot run get a row without times.
    repeats : int
        Timed calls of each.
    warm_up : int
        Untimed rounds before.
    lead : int
        Untimed calls at the start of each turn, which wake the contender's threads.
    prepare : callable
        Called before each turn, untimed.

    Returns
    -------
    list of Row
        One for each contender.
    """

    def turn_of(run: Callable[[], object]) -> Callable[[int], list[float]]:
        def turn(number: int) -> list[float]:
            for _ in range(lead):
                run()
            elapsed = here().milliseconds(run)
            return [elapsed] if number >= warm_up else []

        return turn

    turns = {n: turn_of(c.run) for n, c in enumerate(contenders) if c.run is not None}
    times = take_turns(turns, warm_up + repeats, prepare)
    return [_row(work, contender, times.get(n)) for n, contender in enumerate(contenders)]


def take_turns(
    turns: Mapping[Key, Callable[[int], list[float]]],
    rounds: int,
    prepare: Callable[[], object] = lambda: None,
) -> dict[Key, list[float]]:
    """Call every turn once per round, each round in another order (the same in every run).

    The idle threads of a library spin for milliseconds after its call, on a core that another's
    threads need. So a turn begins with a pause.

    Parameters
    ----------
    turns : mapping
        For each key a function of the round's number that returns measured times.
    rounds : int
        How many.
    prepare : callable
        Called before each turn.

    Returns
    -------
    dict
        The times of each key, in the order of the rounds.
    """
    keys, order = list(turns), np.random.default_rng(0)
    times: dict[Key, list[float]] = {key: [] for key in keys}
    with no_garbage_collection():
        for number in range(rounds):
            for position in order.permutation(len(keys)):
                prepare()
                keep_busy(PAUSE)
                times[keys[position]] += turns[keys[position]](number)
    return times


def _row(work: Workload, contender: Contender, times: list[float] | None) -> Row:
    low, median, high = (
        (None,) * 3 if times is None else map(float, np.percentile(times, (25, 50, 75)))
    )
    own = {name: getattr(contender, name) for name in ("bytes", "output_bytes")}
    return Row(
        **vars(replace(work, **{name: value for name, value in own.items() if value is not None})),
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
    """Wait without sleeping: an idle machine slows down, for longer than a short call."""
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Keep a timed call from paying for the garbage of others."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def keep_memory() -> None:
    """Let glibc's malloc keep freed blocks of up to 32 MiB, the most that it allows.

    Otherwise it maps every output of more than 128 KiB anew and the system zeroes it page by page,
    which makes peers that allocate their output look nearly twice as slow.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, 32 << 20)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
