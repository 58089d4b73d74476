"""Where a benchmark runs: arrays and clocks of the host, or of a GPU."""

import gc
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from perf.harness import machine
from perf.harness.libraries import torch
from perf.harness.shapes import TINY, Shape
from robe_numba.memory import aligned_empty
from robe_numba.ops.devices import gpu_module

GPU_BATCH = 65_536  # samples
SIMULATED_BATCH, SIMULATED_SIZE = 3, 128  # samples and m: each thread is one of Python's
GPU_TABLE_BYTES = 25_200_000_000  # of a peer's uncompressed tables, all together
SPARE_BYTES = 4_000_000_000  # of a GPU's memory, for what nobody counts

FILL = 10.0  # milliseconds of calls that are timed together, on a GPU
MOST_CALLS = 20


class Host:
    """NumPy arrays, timed by the processor's clock."""

    device = "cpu"
    torch_device = "cpu"
    simulated = False
    xp: Any = np  # what the arrays belong to

    def sized(self, shape: Shape) -> Shape:
        """The shape as it is measured here."""
        return shape

    def fitting(self, shape: Shape, copies: int = 1, spare: int = 0) -> Shape:
        """The shape with tables that fit into memory `copies` times, beside `spare` bytes."""
        return shape

    def put(self, array: np.ndarray) -> Any:
        """The array here."""
        return array

    def fetch(self, array: Any) -> np.ndarray:
        """The array as NumPy's."""
        return array

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """A new array of any content."""
        return aligned_empty(shape, dtype)

    def tensor(self, array: np.ndarray) -> Any:
        """The array as torch's, here."""
        return torch.from_numpy(array)

    def milliseconds(self, run: Callable[[], object]) -> float:
        """How long one call takes."""
        begun = time.perf_counter()
        run()
        return 1e3 * (time.perf_counter() - begun)

    def release(self) -> None:
        """Give back what libraries keep for later."""

    def describe(self) -> str:
        """The machine."""
        return machine.describe()


class GPU(Host):
    """CuPy arrays, timed by events of the GPU's default stream."""

    device = "cuda"

    def __init__(self) -> None:
        self._device = gpu_module("device")
        self._device.check_gpu()
        self.xp = self._device.array_library()
        self.simulated = self._device.SIMULATED
        self.torch_device = "cpu" if self.simulated else "cuda"

    def sized(self, shape: Shape) -> Shape:
        """Batches and tables that a GPU is worth; next to nothing for a simulated one."""
        if self.simulated:
            return replace(shape, batch=SIMULATED_BATCH, array_size=SIMULATED_SIZE)
        if shape.name == TINY.name:
            return shape
        return replace(shape, batch=GPU_BATCH, table_bytes=GPU_TABLE_BYTES)

    def fitting(self, shape: Shape, copies: int = 1, spare: int = 0) -> Shape:
        """As on the host, and it says so where tables get smaller."""
        if self.simulated:
            return shape
        self.release()
        free, _ = self.xp.cuda.runtime.memGetInfo()
        room = (free - spare - SPARE_BYTES) // copies
        if shape.table_bytes <= room:
            return shape
        print(
            f"{shape.name}: tables of {room / 1e9:.1f} GB instead of {shape.table_bytes / 1e9:.1f}:"
            f" {free / 1e9:.1f} GB of the GPU are free",
            flush=True,
        )
        return replace(shape, table_bytes=room)

    def put(self, array: np.ndarray) -> Any:
        """A copy on the GPU."""
        return self.xp.asarray(array)

    def fetch(self, array: Any) -> np.ndarray:
        """A copy on the host."""
        return array.get()

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """A new array of any content."""
        return self.xp.empty(shape, dtype)

    def tensor(self, array: np.ndarray) -> Any:
        """A copy as torch's, on the GPU."""
        return torch.from_numpy(array).to(self.torch_device)

    def milliseconds(self, run: Callable[[], object]) -> float:
        """How long one of several calls takes that follow each other.

        Where the host takes longer to ask than the GPU to do, it is the host's time.
        """
        once = self._elapsed(run, 1)
        if once <= 0:  # simulated
            return once
        return self._elapsed(run, max(1, min(MOST_CALLS, round(FILL / once))))

    def _elapsed(self, run: Callable[[], object], calls: int) -> float:
        """Milliseconds per call, from the end of what was asked of the GPU before."""
        from numba import cuda

        begin, end = cuda.event(), cuda.event()
        begin.record()
        for _ in range(calls):
            run()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / calls

    def release(self) -> None:
        """Give back what CuPy and torch keep for later: each sees the other's as taken."""
        gc.collect()
        if self.simulated:
            return
        if torch is not None:
            torch.cuda.empty_cache()
        self.xp.get_default_memory_pool().free_all_blocks()

    def describe(self) -> str:
        """The GPU and its host."""
        if self.simulated:
            return f"a simulated GPU on {machine.describe()}"
        properties = self.xp.cuda.runtime.getDeviceProperties(self.xp.cuda.runtime.getDevice())
        return f"{properties['name'].decode()} on {machine.describe()}"


_here: Host = Host()


def use(device: str) -> None:
    """Run what follows on "cpu" or "cuda"."""
    global _here
    _here = Host() if device == Host.device else GPU()


def here() -> Host:
    """Where to run."""
    return _here
