"""Arrays of int8 with a scale for each block of neighbouring elements."""

from typing import NamedTuple

import numpy as np

from robe_numba.spec import check_int

BLOCK = 128  # elements that share a scale
LEAST_BLOCK, MOST_BLOCK = 16, 4096
LEVELS = 127  # on each side of 0, so that x and -x are stored alike


class QuantizedArray(NamedTuple):
    """An array in about a byte per element: element i is values[i] * scales[i // block].

    Attributes
    ----------
    values : ndarray, (array_size,) int8
        In [-127, 127].
    scales : ndarray, (ceil(array_size / block),) float32
        Finite and not negative.
    block : int
        Elements that share a scale: a power of two from 16 to 4096.
    """

    values: np.ndarray
    scales: np.ndarray
    block: int

    @property
    def nbytes(self) -> int:
        """Bytes of values and scales."""
        return self.values.nbytes + self.scales.nbytes

    def dequantize(self) -> np.ndarray:
        """The elements (array_size,) float32, as kernels compute them."""
        scales = np.repeat(self.scales, self.block)[: self.values.size]
        return self.values.astype(np.float32) * scales


def quantize(array: np.ndarray, block: int = BLOCK) -> QuantizedArray:
    """Store an array in int8: each element is rounded to the nearest of 255 levels of its block.

    The levels of a block reach from -a to a, where a is its largest absolute value, so an element
    changes by at most a / 254.

    Parameters
    ----------
    array : ndarray, (array_size,) float32 or float64
        Finite values.
    block : int
        Neighbouring elements that share a scale: a power of two from 16 to 4096.

    Returns
    -------
    QuantizedArray

    Raises
    ------
    TypeError, ValueError
        The block is no such number, or the array has another dtype or shape or a value that is
        not finite.
    """
    block = check_int("block", block, LEAST_BLOCK, MOST_BLOCK)
    if block & (block - 1):
        raise ValueError(f"block is {block}; it must be a power of two")
    if array.dtype not in (np.float32, np.float64):
        raise TypeError(f"array has dtype {array.dtype}; it must be float32 or float64")
    if array.ndim != 1:
        raise ValueError(f"array has shape {array.shape}; it must have one dimension")
    firsts = np.arange(0, array.size, block)
    largest = np.maximum.reduceat(np.abs(array), firsts) if array.size else np.empty(0)
    if not np.isfinite(largest).all():
        raise ValueError("array has a value that is not finite; only finite ones can be quantized")
    scales = (largest / LEVELS).astype(np.float32)
    # Blocks of zeros, or of numbers so small that their scale is 0, are stored as zeros.
    inverse = np.divide(1, scales, out=np.zeros_like(scales), where=scales > 0)
    levels = np.rint(array * np.repeat(inverse, block)[: array.size])
    return QuantizedArray(np.clip(levels, -LEVELS, LEVELS).astype(np.int8), scales, block)
