"""What a model's layers need besides matrix products, on the GPU."""

import math

import numpy as np

from robe_numba.kernels.gpu.arrays import DeviceArray
from robe_numba.kernels.gpu.compiler import SIMULATED, cuda, function
from robe_numba.kernels.gpu.context import DeviceContext
from robe_numba.kernels.gpu.intrinsics import load_x4, store_x4
from robe_numba.kernels.gpu.launch import Kernel
from robe_numba.kernels.gpu.lookup import start_vectors
from robe_numba.kernels.scalar.unsigned import ONE, THREE, TWO, U4, ZERO

COLUMNS = 4 if SIMULATED else 32  # threads that share a row
ROWS = 2 if SIMULATED else 8  # rows of a thread block
CHUNKS = 4 if SIMULATED else 64  # chunks of a batch, each of which is summed by itself


@function
def rectified(value, zero):
    """max(value, 0); a NaN stays, so that a model that diverges shows it."""
    return zero if value <= zero else value


@Kernel
def add_bias_elements(y, bias, rectify):
    """y (batch * width,) += bias (width,), rectified if asked for; COLUMNS threads own a row."""
    row = np.uint64(cuda.blockIdx.x) * np.uint64(ROWS) + np.uint64(cuda.threadIdx.y)
    column, zero = np.uint64(cuda.threadIdx.x), y.dtype.type(0)
    width = np.uint64(bias.size)
    if row * width < np.uint64(y.size):
        while column < width:
            value = y[row * width + column] + bias[column]
            y[row * width + column] = rectified(value, zero) if rectify else value
            column += np.uint64(COLUMNS)


@Kernel
def add_bias_vectors(y, bias, rectify):
    """As `add_bias_elements`, by aligned vectors of four."""
    row = np.uint64(cuda.blockIdx.x) * np.uint64(ROWS) + np.uint64(cuda.threadIdx.y)
    column, real, zero = np.uint64(cuda.threadIdx.x) * U4, y.dtype.type, y.dtype.type(0)
    width = np.uint64(bias.size)
    if row * width < np.uint64(y.size):
        while column < width:
            i = row * width + column
            a, b, c, d = load_x4(y, i, real)
            e, f, g, h = load_x4(bias, column, real)
            a, b, c, d = a + e, b + f, c + g, d + h
            if rectify:
                a, b = rectified(a, zero), rectified(b, zero)
                c, d = rectified(c, zero), rectified(d, zero)
            store_x4(y, i, (a, b, c, d))
            column += np.uint64(4 * COLUMNS)


@Kernel
def mask_and_sum(grad_y, y, rectify, width, chunk, sums):
    """sums (chunks * width,) = the sums of the columns of grad_y (batch * width,) by chunks of
    rows, after grad_y became 0 where y was rectified. A thread block owns COLUMNS columns of a
    chunk.
    """
    partial = cuda.shared.array((ROWS, COLUMNS), grad_y.dtype)
    lane, group, step = np.uint64(cuda.threadIdx.x), np.uint64(cuda.threadIdx.y), np.uint64(ROWS)
    tiles = (width + np.uint64(COLUMNS) - ONE) // np.uint64(COLUMNS)
    block = np.uint64(cuda.blockIdx.x)
    number, column = block // tiles, block % tiles * np.uint64(COLUMNS) + lane
    zero = grad_y.dtype.type(0)
    total, end = zero, np.uint64(grad_y.size)
    if column < width:
        i = (number * chunk + group) * width + column
        end = min((number + ONE) * chunk * width, end)
        stride = step * width
        while i < end:
            # Four rows at a time, whose reads are in flight together.
            i_1, i_2, i_3 = i + stride, i + TWO * stride, i + THREE * stride
            j_1, j_2 = (i_1 if i_1 < end else i), (i_2 if i_2 < end else i)
            j_3 = i_3 if i_3 < end else i
            g_0, g_1, g_2, g_3 = grad_y[i], grad_y[j_1], grad_y[j_2], grad_y[j_3]
            if rectify:
                y_0, y_1, y_2, y_3 = y[i], y[j_1], y[j_2], y[j_3]
                # A NaN is not greater than 0 either.
                g_0, g_1 = (g_0 if y_0 > 0 else zero), (g_1 if y_1 > 0 else zero)
                g_2, g_3 = (g_2 if y_2 > 0 else zero), (g_3 if y_3 > 0 else zero)
                grad_y[i] = g_0
                if i_1 < end:
                    grad_y[i_1] = g_1
                if i_2 < end:
                    grad_y[i_2] = g_2
                if i_3 < end:
                    grad_y[i_3] = g_3
            total += g_0
            total += g_1 if i_1 < end else zero
            total += g_2 if i_2 < end else zero
            total += g_3 if i_3 < end else zero
            i += U4 * stride
    partial[group, lane] = total
    cuda.syncthreads()
    if group == ZERO and column < width:
        for k in range(1, ROWS):
            total += partial[k, lane]
        sums[number * width + column] = total


@Kernel
def sum_chunks(sums, width, out):
    """out (width,) = the sums (chunks * width,) of each column, chunk after chunk."""
    column = np.uint64(cuda.grid(1))
    if column < width:
        total, i = out.dtype.type(0), column
        while i < np.uint64(sums.size):
            total += sums[i]
            i += width
        out[column] = total


@Kernel
def bce_with_logits(logits, labels, count, losses, grads):
    """losses and grads (batch,): the cross-entropy of each row, and its gradient / count."""
    i, zero, one = cuda.grid(1), logits.dtype.type(0), logits.dtype.type(1)
    if i < logits.size:
        z, y = logits[i], labels[i]
        small = math.exp(-abs(z))  # in (0, 1] for either sign
        losses[i] = max(z, zero) - z * y + math.log1p(small)
        grads[i] = ((one if z >= zero else small) / (one + small) - y) / count


@Kernel
def add_cross(x, product, before, out, bias, width):
    """out = x * (product + bias) + before, all (batch * width,) but bias (width,)."""
    i = np.uint64(cuda.grid(1))
    if i < np.uint64(out.size):
        out[i] = x[i] * (product[i] + bias[i % width]) + before[i]


@Kernel
def cross_gradient(x, product, grad_out, grad, grad_x, bias, width):
    """Backward of `add_cross`, given the gradient of its output in two terms, (batch * width,).

    grad_out += grad; grad, the product's, = grad_out * x; grad_x += grad_out * (product + bias).
    """
    i = np.uint64(cuda.grid(1))
    if i < np.uint64(x.size):
        given = grad_out[i] + grad[i]
        grad_out[i] = given
        grad_x[i] += given * (product[i] + bias[i % width])
        grad[i] = given * x[i]


def add_bias(context: DeviceContext, y: DeviceArray, bias: DeviceArray, rectify: bool) -> None:
    """Add bias (width,) to y (batch, width) in place, and rectify it if asked for."""
    if y.size:
        vectors = bias.size % 4 == 0 and start_vectors(y, bias)
        kernel = add_bias_vectors if vectors else add_bias_elements
        kernel.launch(context, -(-y.shape[0] // ROWS), (COLUMNS, ROWS), y.flat(), bias, rectify)


def sum_rectified(
    context: DeviceContext,
    grad_y: DeviceArray,
    y: DeviceArray,
    rectify: bool,
    grad_bias: DeviceArray,
) -> None:
    """Set grad_y (batch, width) to 0 where y was rectified, and grad_bias (width,) to the sums of
    its columns. The order of additions depends only on the shape.
    """
    batch, width = grad_y.shape
    chunk = max(ROWS, -(-batch // CHUNKS))
    chunks, tiles = -(-batch // chunk), -(-width // COLUMNS)
    sums = context.scratch(chunks * width, grad_y.dtype)
    sizes = np.uint64(width), np.uint64(chunk)
    if chunks:
        arguments = (grad_y.flat(), y.flat(), rectify, *sizes, sums)
        mask_and_sum.launch(context, chunks * tiles, (COLUMNS, ROWS), *arguments)
    sum_chunks.launch_each(context, width, sums, sizes[0], grad_bias)
