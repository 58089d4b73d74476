"""Hashing on the GPU: one thread for each block of a row."""

import numpy as np

from robe_numba.kernels.gpu.arrays import DeviceArray
from robe_numba.kernels.gpu.compiler import cuda
from robe_numba.kernels.gpu.context import DeviceContext, constants_on
from robe_numba.kernels.gpu.launch import Kernel
from robe_numba.kernels.scalar.hashing import block_start, row_key
from robe_numba.spec import Spec


@Kernel
def block_starts(indices, spec, starts):
    """starts (n * num_blocks,) of indices (n,)."""
    number = np.uint64(cuda.grid(1))
    if number < np.uint64(starts.size):
        row, block = number // spec.num_blocks, number % spec.num_blocks
        key = row_key(np.uint64(indices[row]), spec)
        starts[number] = block_start(key, row % spec.num_tables, block, spec)


def hash_starts(context: DeviceContext, ids: DeviceArray, spec: Spec, starts: DeviceArray) -> None:
    """Hash ids (n,) into starts uint64 (n * num_blocks,)."""
    if starts.size:
        constants = constants_on(spec, context.device)
        block_starts.launch_each(context, starts.size, ids, constants, starts)
