"""The cost of a launch in Python, without a GPU: a driver that does nothing stands in.

python -m perf.gpu.launch_stand_in      microseconds in Python for a launch of two kernels
"""

import statistics
import time
from types import SimpleNamespace
from typing import Any

import numpy as np

from robe_numba import RobeSpec
from robe_numba.kernels.coefficients import hash_spec
from robe_numba.kernels.gpu import launch, lookup
from robe_numba.kernels.gpu.arrays import DeviceArray
from robe_numba.kernels.gpu.launch import Kernel, Prepared
from robe_numba.kernels.gpu.update.driver import Heavy
from robe_numba.kernels.gpu.update.partition import Ranges, SortedReads
from robe_numba.kernels.gpu.update.segments import UpdateVariant, segment_kernels

CALLS, ROUNDS = 2000, 7
CONTEXT: Any = SimpleNamespace(device=0, stream=0)
DRIVER = SimpleNamespace(CUfunction=int, cuLaunchKernel=lambda *arguments: (0,))


def main() -> None:
    """Print the medians."""
    launch.driver = DRIVER
    constants = hash_spec(RobeSpec(25_000_000, 128, 128, 26))
    tables: Any = {"coefficients": array(np.uint64, 3), "sign_keys": array(np.uint64, 2)}
    spec = Prepared(constants._replace(**tables))
    floats, numbers, words = array(np.float32), array(np.int64), array(np.uint64)
    one = np.uint64(1)
    report(
        "gather",
        lookup.gather_kernel(False, False, False, 32),
        (floats, numbers, spec, True, words, floats, one),
    )
    reads = SortedReads(numbers, words, words, numbers, floats, numbers, False, floats)
    ranges = Ranges(words, words, words, one)
    heavy = Heavy(numbers, words, words, words, words, floats)
    update = segment_kernels(UpdateVariant(False, False, False, False, False))
    rate = (np.float32(0.1),)
    report(
        "update_light",
        update.update_light,
        (1, reads, spec, ranges, heavy, floats, floats, rate, np.float32(0)),
    )


def array(dtype: Any, dimensions: int = 1) -> DeviceArray:
    """A device array whose memory is never read."""
    return DeviceArray(64, (4,) * dimensions, np.dtype(dtype), None)


def report(name: str, kernel: Kernel, arguments: tuple[Any, ...]) -> None:
    """Time launches of a kernel that is not compiled."""
    function = SimpleNamespace(handle=1)
    library = SimpleNamespace(get_cufunc=lambda: function)
    kernel._dispatcher = SimpleNamespace(
        compile=lambda kinds: SimpleNamespace(_codelibrary=library)
    )
    found = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        for _ in range(CALLS):
            kernel.launch(CONTEXT, 1, 128, *arguments)
        found.append(1e6 * (time.perf_counter() - begun) / CALLS)
    print(f"{name}: {statistics.median(found):.1f} us, at best {min(found):.1f}")


if __name__ == "__main__":
    main()
