"""How long a GPU works on a call: medians by its own events, with the host's work hidden.

A call is launched while the GPU is still busy in a kernel that only waits. So everything is queued
when the first event passes, and the time between the events is the GPU's alone. Where a call itself
waits for the GPU this is impossible, and the note says so.
"""

import time
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from perf.harness.places import here

REPEATS = 20
WARM_UP = 3  # untimed calls: compilation, memory pools
ROOM = 2.0  # seconds for all calls of one measurement
FEWEST = 5
SHORTEST_DELAY, LONGEST_DELAY = 0.2, 100.0  # milliseconds
HOST_INCLUDED = "waits for the GPU: the host's time is in it"

WAIT = r"""
extern "C" __global__ void wait(long long nanoseconds) {
    unsigned long long begin, now;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(begin));
    do {
        asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
    } while (now - begin < nanoseconds);
}
"""


class Times(NamedTuple):
    """Quartiles of several calls, in one unit of time."""

    median: float
    lower_quartile: float
    upper_quartile: float
    note: str = ""


def quartiles(times: Any, note: str = "") -> Times:
    """Quartiles of measured times."""
    low, median, high = map(float, np.percentile(times, (25, 50, 75)))
    return Times(median, low, high, note)


def device_times(run: Callable[[], object], repeats: int = REPEATS) -> Times:
    """Milliseconds of one call on the GPU; in the simulator by the host's clock."""
    for _ in range(1 if here().simulated else WARM_UP):
        run()
    once = wall_milliseconds(run)
    repeats = max(FEWEST, min(repeats, int(1e3 * ROOM / max(once, 1e-3))))
    if here().simulated:
        return quartiles([once])
    delay, note = max(SHORTEST_DELAY, once), ""
    found: list[float] = []
    while len(found) < repeats:
        elapsed, hidden = _behind_delay(run, delay)
        if not hidden and not note:
            delay *= 4
            if delay < LONGEST_DELAY:
                continue
            delay, note = 0.0, HOST_INCLUDED
        found.append(elapsed)
    return quartiles(found, note)


def wall_times(run: Callable[[], object], repeats: int = REPEATS) -> Times:
    """Milliseconds of one call by the host's clock, until the GPU is idle."""
    run()
    once = wall_milliseconds(run)
    repeats = max(FEWEST, min(repeats, int(1e3 * ROOM / max(once, 1e-3))))
    repeats = 1 if here().simulated else repeats
    return quartiles([wall_milliseconds(run) for _ in range(repeats)])


def wall_milliseconds(run: Callable[[], object]) -> float:
    """Milliseconds of one call by the host's clock, from an idle GPU to an idle GPU."""
    wait()
    begun = time.perf_counter()
    run()
    wait()
    return 1e3 * (time.perf_counter() - begun)


def wait() -> None:
    """Wait until the GPU is idle."""
    if not here().simulated:
        here().xp.cuda.Device().synchronize()


def _behind_delay(run: Callable[[], object], milliseconds: float) -> tuple[float, bool]:
    """Milliseconds between the events around a call, launched behind a delay.

    And whether the GPU was still in the delay when the whole call had been launched.
    """
    events = here().xp.cuda
    begin, end = events.Event(), events.Event()
    wait()
    if milliseconds:
        _delay()((1,), (1,), (np.int64(1e6 * milliseconds),))
    begin.record()
    run()
    hidden = not begin.done
    end.record()
    end.synchronize()
    return events.get_elapsed_time(begin, end), hidden


@cache
def _delay() -> Any:
    return here().xp.RawKernel(WAIT, "wait")
