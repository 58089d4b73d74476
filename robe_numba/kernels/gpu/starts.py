"""Hashing on the GPU: one thread per block of the array that is read."""

import numpy as np

from robe_numba.kernels.gpu.arrays import DeviceArray
from robe_numba.kernels.gpu.compiler import SIMULATED, cuda
from robe_numba.kernels.gpu.device import Work, device_spec
from robe_numba.kernels.gpu.launch import Kernel
from robe_numba.kernels.scalar.hashing import block_start, row_key
from robe_numba.spec import Spec

THREADS = 32 if SIMULATED else 256  # of a thread block


@Kernel
def block_starts(indices, spec, starts):
    """starts (n * num_blocks,) of indices (n,)."""
    number = np.uint64(cuda.grid(1))
    if number < np.uint64(starts.size):
        row, block = number // spec.num_blocks, number % spec.num_blocks
        key = row_key(np.uint64(indices[row]), spec)
        starts[number] = block_start(key, row % spec.num_tables, block, spec)


def launch(work: Work, ids: DeviceArray, spec: Spec, starts: DeviceArray) -> None:
    """Hash ids (n,) into starts uint64 (n * num_blocks,)."""
    if starts.size:
        grid = -(-starts.size // THREADS)
        block_starts.launch(work, grid, THREADS, ids, device_spec(spec, work), starts)
