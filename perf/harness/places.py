"""Where a benchmark runs: arrays and clock of the host, or of a GPU."""

import gc
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from perf.harness import machine
from perf.harness.libraries import torch
from perf.harness.shapes import TINY, BenchShape
from robe_numba.formatting import format_bytes
from robe_numba.memory import aligned_empty
from robe_numba.ops.devices import gpu_module

GPU_BATCH = 65_536  # samples
SIMULATED_BATCH, SIMULATED_SIZE = 3, 128  # samples and m: each GPU thread is a Python thread
GPU_TABLE_BYTES = 25_200_000_000  # all uncompressed tables of a peer
SPARE_BYTES = 4_000_000_000  # GPU memory for everything that is not counted

FILL = 10.0  # milliseconds of GPU calls that are timed together
MOST_CALLS = 20


class Host:
    """NumPy arrays, timed by the processor's clock."""

    device = "cpu"
    torch_device = "cpu"
    simulated = False
    xp: Any = np  # the library of its arrays

    def sized(self, shape: BenchShape) -> BenchShape:
        """The shape as it is measured here."""
        return shape

    def fitting(self, shape: BenchShape, copies: int = 1, spare: int = 0) -> BenchShape:
        """The shape with tables that fit into memory `copies` times, with `spare` bytes left."""
        return shape

    def put(self, array: np.ndarray) -> Any:
        """The array on this device."""
        return array

    def fetch(self, array: Any) -> np.ndarray:
        """The array in NumPy."""
        return array

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """A new uninitialised array."""
        return aligned_empty(shape, dtype)

    def tensor(self, array: np.ndarray) -> Any:
        """The array as a torch tensor on this device."""
        return torch.from_numpy(array)

    def milliseconds(self, run: Callable[[], object]) -> float:
        """How long one call takes."""
        begun = time.perf_counter()
        run()
        return 1e3 * (time.perf_counter() - begun)

    def release(self) -> None:
        """Free the memory that libraries cache."""

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

    def sized(self, shape: BenchShape) -> BenchShape:
        """The shape with a batch and tables of a GPU's size; tiny for a simulated GPU."""
        if self.simulated:
            return replace(shape, batch=SIMULATED_BATCH, array_size=SIMULATED_SIZE)
        if shape.name == TINY.name:
            return shape
        return replace(shape, batch=GPU_BATCH, table_bytes=GPU_TABLE_BYTES)

    def fitting(self, shape: BenchShape, copies: int = 1, spare: int = 0) -> BenchShape:
        """As on the host; it prints where tables get smaller."""
        if self.simulated:
            return shape
        self.release()
        free, _ = self.xp.cuda.runtime.memGetInfo()
        room = (free - spare - SPARE_BYTES) // copies
        if shape.table_bytes <= room:
            return shape
        print(
            f"{shape.name}: tables of {format_bytes(room, 3)} instead of "
            f"{format_bytes(shape.table_bytes, 3)}: {format_bytes(free, 3)} of the GPU are free",
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
        """A new uninitialised array."""
        return self.xp.empty(shape, dtype)

    def tensor(self, array: np.ndarray) -> Any:
        """A copy as a torch tensor on the GPU."""
        return torch.from_numpy(array).to(self.torch_device)

    def milliseconds(self, run: Callable[[], object]) -> float:
        """How long one of several consecutive calls takes.

        Where launching takes the host longer than the work takes the GPU, this is the host's time.
        """
        once = self._elapsed(run, 1)
        if once <= 0:  # simulated
            return once
        return self._elapsed(run, max(1, min(MOST_CALLS, round(FILL / once))))

    def _elapsed(self, run: Callable[[], object], calls: int) -> float:
        """Milliseconds per call, once earlier work of the GPU is done."""
        from numba import cuda

        begin, end = cuda.event(), cuda.event()
        begin.record()
        for _ in range(calls):
            run()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / calls

    def release(self) -> None:
        """Free the memory that CuPy and torch cache: neither can use the other's."""
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
