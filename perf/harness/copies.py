"""The floor of a forward pass: a plain copy of the output's bytes."""

from collections.abc import Iterator
from functools import partial

import numba
import numpy as np
from numba import prange

from perf.harness.libraries import torch
from perf.harness.places import here
from perf.harness.race import Contender
from robe_numba._jit import jit
from robe_numba.kernels.cpu.simd.types import fence, load_x16, stream
from robe_numba.memory import aligned_empty

LANES = 16  # of load_x16


def contenders(size: int) -> Iterator[Contender]:
    """Copy `size` float32 elements.

    On the host Numba's streaming stores and, where installed, torch; on a GPU CuPy.
    """
    if here().device == "cuda":
        source, target = (here().put(np.full(size, i, np.float32)) for i in range(2))
        target[...] = source
        assert np.array_equal(here().fetch(target), here().fetch(source))
        yield Contender("copy (CuPy)", partial(here().xp.copyto, target, source), "floor")
        return
    source, target = (aligned_empty((size,), np.float32) for _ in range(2))
    source[...], target[...] = 1, 0
    parts = np.uint64(numba.get_num_threads())
    stream_copy(source, target, parts)
    assert np.array_equal(source, target)
    yield Contender("copy (Numba)", partial(stream_copy, source, target, parts), "floor")
    if torch is not None:
        to, from_ = map(torch.from_numpy, (target, source))
        yield Contender("copy (torch)", partial(to.copy_, from_), "floor")


@jit(parallel=True)
def stream_copy(source: np.ndarray, target: np.ndarray, parts: np.uint64) -> None:
    """Copy aligned float32 arrays past the caches; one iteration owns one of the parts."""
    size = np.uint64(source.size)
    length = (size // parts + np.uint64(LANES)) & ~np.uint64(LANES - 1)
    for part in prange(parts):
        first = min(np.uint64(part) * length, size)
        last = min(first + length, size)
        whole = first + ((last - first) & ~np.uint64(LANES - 1))
        for i in range(first, whole, np.uint64(LANES)):
            stream(target, i, load_x16(source, i))
        for i in range(whole, last):
            target[i] = source[i]
        fence()
