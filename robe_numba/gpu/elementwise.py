"""Kernels of a model's dense part on the GPU, around the matrix products."""

import math
from typing import Any

from numba import cuda

from robe_numba.gpu.device import SIMULATED

LANES = 4 if SIMULATED else 32  # threads that share a row
ROWS = 2 if SIMULATED else 8  # of a thread block
THREADS = 32 if SIMULATED else 256  # of a thread block without rows


@cuda.jit
def add_bias(y, bias, rectify):
    """y (batch, width) += bias (width,), then rectified or not."""
    row, zero = cuda.blockIdx.x * cuda.blockDim.y + cuda.threadIdx.y, y.dtype.type(0)
    if row < y.shape[0]:
        for column in range(cuda.threadIdx.x, y.shape[1], cuda.blockDim.x):
            value = y[row, column] + bias[column]
            # A NaN is neither and stays: a model that diverges shall show it.
            y[row, column] = zero if rectify and value <= zero else value


@cuda.jit
def mask(grad_y, y):
    """grad_y (n,) becomes 0 where y (n,) was rectified."""
    i = cuda.grid(1)
    if i < y.size and not y[i] > 0:
        grad_y[i] = 0


@cuda.jit
def entropy(logits, labels, count, losses, grads):
    """Per row of (batch,) binary cross-entropy, and its gradient over `count`."""
    i, zero, one = cuda.grid(1), logits.dtype.type(0), logits.dtype.type(1)
    if i < logits.size:
        z, y = logits[i], labels[i]
        small = math.exp(-abs(z))  # in (0, 1] for either sign
        losses[i] = max(z, zero) - z * y + math.log1p(small)
        grads[i] = ((one if z >= zero else small) / (one + small) - y) / count


def by_rows(work: Any, kernel: Any, y: Any, *arguments: Any) -> None:
    """Run a kernel on y (batch, width)."""
    if y.size:
        kernel[-(-y.shape[0] // ROWS), (LANES, ROWS), work.stream](y, *arguments)


def by_elements(work: Any, kernel: Any, count: int, *arguments: Any) -> None:
    """Run a kernel with a thread for each of `count`."""
    if count:
        kernel[-(-count // THREADS), THREADS, work.stream](*arguments)
