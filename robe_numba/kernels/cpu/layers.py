"""What a model's layers need besides matrix products, and sums over gradients."""

import numpy as np
from numba import prange

from robe_numba._jit import inner, jit
from robe_numba.kernels.cpu.simd.types import load_x1, load_x16, store
from robe_numba.kernels.cpu.starts import share
from robe_numba.kernels.scalar.unsigned import ONE, U16

LANES = 16  # partial sums, so that squares are added in vectors and always in the same order


@jit
def add_bias(y, bias, rectify):
    """y (batch, fan_out) += bias (fan_out,), rectified if asked for; one thread owns all rows."""
    for row in range(y.shape[0]):
        for column in range(y.shape[1]):
            value = y[row, column] + bias[column]
            # A NaN compares false and stays, so that a model that diverges shows it.
            y[row, column] = 0 if rectify and value <= 0 else value


@jit
def sum_rectified(grad_y, y, rectify, grad_bias):
    """grad_bias = the column sums of grad_y, made 0 where y was rectified; one thread owns all."""
    grad_bias[:] = 0
    zero = grad_bias.dtype.type(0)
    for row in range(y.shape[0]):
        # Two loops without branches become vector code; one loop for both would not.
        values, outputs = grad_y[row], y[row]
        if rectify:
            for column in range(values.size):
                values[column] = values[column] if outputs[column] > 0 else zero
        for column in range(values.size):
            grad_bias[column] += values[column]


@jit(parallel=True)
def sum_rows(rows, count, total, num_workers):
    """total (n,) = the sum of `count` rows, flat in `rows`; one iteration owns a share of n."""
    size = np.uint64(total.size)
    for worker in prange(num_workers):
        first, last = share(size, worker, num_workers)
        sum_range(rows, np.uint64(count), size, first, last, total)


@inner
def sum_range(rows, count, size, first, last, total):
    """Sum elements [first, last) of all rows, row 0 first."""
    while first + U16 <= last:
        value = load_x16(rows, first)
        for row in range(ONE, count):
            value = value + load_x16(rows, row * size + first)
        store(total, first, value)
        first += U16
    while first < last:
        value = load_x1(rows, first)
        for row in range(ONE, count):
            value = value + load_x1(rows, row * size + first)
        store(total, first, value)
        first += ONE


@jit
def sum_of_squares(values, sums):
    """The sum of the squares of values (n,), float64; sums (LANES,) is scratch. One thread."""
    sums[:] = 0
    whole = values.size - values.size % LANES
    for first in range(0, whole, LANES):
        for lane in range(LANES):
            value = np.float64(values[first + lane])
            sums[lane] += value * value
    for last in range(whole, values.size):
        sums[0] += np.float64(values[last]) ** 2
    return sums.sum()


@jit
def add_cross(x, product, bias, before, out):
    """out = x * (product + bias) + before, all (batch, n) but bias (n,); one thread owns all rows.

    `out` may be `before`.
    """
    for row in range(out.shape[0]):
        for column in range(out.shape[1]):
            factor = product[row, column] + bias[column]
            out[row, column] = x[row, column] * factor + before[row, column]


@jit
def cross_gradient(x, product, bias, grad_out, grad, grad_x, grad_bias):
    """Backward of `add_cross`, given the gradient of its output in two terms; one thread owns all.

    grad_out += grad; grad, the product's, = grad_out * x; grad_x += grad_out * (product + bias);
    grad_bias (n,) = the column sums of grad.
    """
    grad_bias[:] = 0
    for row in range(x.shape[0]):
        for column in range(x.shape[1]):
            given = grad_out[row, column] + grad[row, column]
            grad_out[row, column] = given
            grad_x[row, column] += given * (product[row, column] + bias[column])
            own = given * x[row, column]
            grad[row, column] = own
            grad_bias[column] += own
