"""Arrays of int8 with a scale for each block of neighbouring elements."""

from typing import Any, NamedTuple

import numpy as np

from robe_numba.spec import check_int

BLOCK = 128  # elements that share a scale
LEAST_BLOCK, MOST_BLOCK = 16, 4096
LEVELS = 127  # on each side of 0, so that x and -x are stored alike
MOST = 2.0**127  # of an element: its scale times 127 may be rounded up, and stays finite
CHUNK = 1 << 20  # elements that are rounded together, which bounds the memory; whole blocks


class QuantizedArray(NamedTuple):
    """An array in about a byte per element: element i is values[i] * scales[i // block].

    Functions that read it check dtypes and lengths, not the numbers: those are multiplied as they
    are. A scale of NaN makes all elements of its block NaN.

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


def check_block(block: Any, name: str = "block") -> int:
    """Require a number of elements that can share a scale.

    Raises
    ------
    TypeError, ValueError
        It is not an integer, out of range or not a power of two.
    """
    block = check_int(name, block, LEAST_BLOCK, MOST_BLOCK)
    if block & (block - 1):
        raise ValueError(f"{name} is {block}; it must be a power of two")
    return block


def quantize(array: np.ndarray, block: int = BLOCK) -> QuantizedArray:
    """Store an array in int8: each element is rounded to the nearest of 255 levels of its block.

    The levels of a block reach from -a to a, where a is its largest absolute value, so an element
    changes by at most a / 254, but for rounding. Where a / 127 is no normal float32, below 1.2e-38,
    the elements become 0.

    Parameters
    ----------
    array : ndarray, (array_size,) float32 or float64
        Finite values, from -2**127 to 2**127.
    block : int
        Neighbouring elements that share a scale: a power of two from 16 to 4096.

    Returns
    -------
    QuantizedArray

    Raises
    ------
    TypeError, ValueError
        The block is no such number, or the array is not NumPy's or has another dtype or shape or a
        value that is not finite or out of range.
    """
    block = check_block(block)
    if type(array) not in (np.ndarray, np.memmap):
        kind = type(array)
        raise TypeError(
            f"array must be a NumPy array, got {kind.__module__}.{kind.__name__}; use "
            f"numpy.asarray, or cupy.asnumpy for one on a GPU"
        )
    if array.dtype not in (np.float32, np.float64):
        raise TypeError(f"array has dtype {array.dtype}; it must be float32 or float64")
    if array.ndim != 1:
        raise ValueError(f"array has shape {array.shape}; it must have one dimension")
    values = np.empty(array.size, np.int8)
    scales = np.empty(-(-array.size // block), np.float32)
    for first in range(0, array.size, CHUNK):
        part, begin = array[first : first + CHUNK], first // block
        _quantize(part, block, values[first:], scales[begin:])
    return QuantizedArray(values, scales, block)


def _quantize(part: np.ndarray, block: int, values: np.ndarray, scales: np.ndarray) -> None:
    """Fill in the values and scales of `part`; both arrays begin where it does."""
    firsts = np.arange(0, part.size, block)
    largest = np.maximum.reduceat(np.abs(part), firsts)
    if not (largest <= MOST).all():
        raise ValueError(
            f"array has a value that is not finite or beyond {MOST:.3g}, which cannot be quantized"
        )
    own = (largest / LEVELS).astype(np.float32)
    own[own < np.finfo(np.float32).tiny] = 0
    divisors = np.repeat(np.where(own > 0, own, np.float32(np.inf)), block)[: part.size]
    values[: part.size] = np.clip(np.rint(part / divisors), -LEVELS, LEVELS)
    scales[: own.size] = own
