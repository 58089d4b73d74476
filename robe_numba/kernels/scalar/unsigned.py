"""Unsigned numbers that kernels count and index with.

An index must be unsigned throughout: mixed with a signed number it becomes int64, and Numba then
tests at each access whether it is negative; mixed with a plain Python number it may become float64.
"""

import numpy as np

ZERO = np.uint64(0)
ONE = np.uint64(1)
TWO = np.uint64(2)
THREE = np.uint64(3)
U4 = np.uint64(4)
U5 = np.uint64(5)
U6 = np.uint64(6)
U7 = np.uint64(7)
U8 = np.uint64(8)
U15 = np.uint64(15)
U16 = np.uint64(16)
U32 = np.uint64(32)
U33 = np.uint64(33)
U48 = np.uint64(48)
U63 = np.uint64(63)
U64 = np.uint64(64)
