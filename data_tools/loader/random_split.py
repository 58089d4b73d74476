"""A random split of all rows in two bits per row, where a permutation takes four or eight bytes.

The split is defined by `numpy.random.Generator.shuffle` of the row numbers: the rows in the first
places train, the next validate, the last test. The shuffle goes through the places i from the last
to 1, and swaps the rows in i and in a random place j <= i. Only which part a row ends up in is
wanted. That is found by undoing the swaps, in reverse order, from the parts of the places. Swaps
within the first part change nothing, so they are never drawn.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from robe_numba._jit import jit

CHUNK_WORDS = 1 << 17  # random words drawn at a time
_ONE, _TWO, _THREE = np.uint64(1), np.uint64(2), np.uint64(3)
_LOW_WORD = np.uint64(2**32 - 1)
_HALF = np.uint64(32)


def row_parts(num_rows: int, ends: Sequence[int], seed: int) -> np.ndarray:
    """Assign each row to a part at random.

    Parameters
    ----------
    num_rows : int
    ends : sequence of int
        Where each of up to three parts ends among the places; rows behind the last are in none.
    seed : int

    Returns
    -------
    ndarray, (ceil(num_rows / 4),) uint8
        The number of the part of each row, two bits per row, the lowest bits first.
    """
    labels = np.zeros(-(-num_rows // 4), np.uint8)
    if not num_rows:
        return labels
    bounds = np.array([min(end, num_rows) for end in ends], np.uint64)
    labels[0] = np.count_nonzero(bounds == 0)  # of place 0, which is never drawn for
    first = np.uint64(max(int(bounds[0]), 1))
    places = np.empty(2 * CHUNK_WORDS, np.uint64)
    begins = [np.uint64(num_rows - 1)]  # the place with which each chunk of words begins
    generator = np.random.PCG64((0, seed))
    while begins[-1] >= first:
        words = generator.random_raw(CHUNK_WORDS)
        begins.append(_draw_places(words, begins[-1], first, places))
    for chunk in reversed(range(len(begins) - 1)):
        words = np.random.PCG64((0, seed)).advance(chunk * CHUNK_WORDS).random_raw(CHUNK_WORDS)
        _draw_places(words, begins[chunk], first, places)
        _undo(labels, begins[chunk], places[: int(begins[chunk] - begins[chunk + 1])], bounds)
    return labels


@jit
def _draw_places(words: Any, last: Any, first: Any, places: Any) -> Any:
    """Draw a place to swap with, for each place from `last` down, until `first` or words end.

    This is NumPy's `random_interval`: bits above those of i are cut off, and a larger number than i
    is drawn again. Where 32 bits are enough a word gives two draws, the lower half first.
    """
    i = np.uint64(last)
    mask = ~np.uint64(0)
    for word in words:
        halves = 1 if i > _LOW_WORD else 2
        for _ in range(halves):
            while mask >> _ONE >= i:
                mask >>= _ONE
            place = (word if halves == 1 else word & _LOW_WORD) & mask
            word >>= _HALF
            if place <= i:
                places[last - i] = place
                i -= _ONE
                if i < first:
                    return i
    return i


@jit
def _undo(labels: Any, last: Any, places: Any, bounds: Any) -> None:
    """Undo the swaps of the places from `last` down, the last one first."""
    for number in range(places.size):
        back = np.uint64(places.size - 1 - number)
        i, j = np.uint64(last) - back, places[back]
        part = np.uint8(0)
        for bound in bounds:
            part += np.uint8(i >= bound)
        shift = (j & _THREE) * _TWO
        other = (labels[j >> _TWO] >> shift) & np.uint8(3)
        # Place i has not been seen yet, so its bits are still 0, and its part is known.
        labels[i >> _TWO] |= np.uint8(other << ((i & _THREE) * _TWO))
        labels[j >> _TWO] ^= np.uint8((other ^ part) << shift)
