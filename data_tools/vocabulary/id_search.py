"""Search the sorted ids of a column through a directory of their upper bits."""

from typing import Any, NamedTuple

import numpy as np

from robe_numba._jit import jit


class Column(NamedTuple):
    """One column of a vocabulary, as the search reads it.

    Attributes
    ----------
    ids : ndarray, (n,) uint32 or uint64
        Strictly increasing.
    numbers : ndarray, (n,) uint32
        Of each id; empty where ids stay as they are.
    starts : ndarray, (buckets + 1,) uint32
        Bucket b is ids[starts[b]:starts[b + 1]].
    base, shift : uint64
        Id i is in bucket (i - base) >> shift, or in the nearest one.
    rare : uint64
        What an unknown id becomes.
    """

    ids: np.ndarray
    numbers: np.ndarray
    starts: np.ndarray
    base: np.uint64
    shift: np.uint64
    rare: np.uint64


@jit
def _bucket(wanted: Any, base: Any, shift: Any, buckets: Any) -> Any:
    """The bucket of an id; all are uint64."""
    return np.uint64(0) if wanted < base else min((wanted - base) >> shift, buckets - np.uint64(1))


@jit
def fill_starts(ids: Any, starts: Any, base: Any, shift: Any) -> Any:
    """Fill the directory of sorted ids; False where they are not strictly increasing."""
    buckets = np.uint64(len(starts) - 1)
    one, filled, last = np.uint64(1), np.uint64(0), np.uint64(0)
    starts[filled] = 0
    for place in range(np.uint64(len(ids))):
        wanted = np.uint64(ids[place])
        if place > np.uint64(0) and wanted <= last:
            return False
        last = wanted
        bucket = _bucket(wanted, base, shift, buckets)
        while filled < bucket:
            filled += one
            starts[filled] = place
    while filled < buckets:
        filled += one
        starts[filled] = len(ids)
    return True


@jit
def map_column(indices: Any, out: Any, column: Any) -> None:
    """Map one categorical column of a block of rows; `out` may be `indices`."""
    ids, numbers, starts, base, shift, rare = column
    buckets = np.uint64(len(starts) - 1)
    one = np.uint64(1)
    for row in range(np.uint64(len(indices))):
        wanted = np.uint64(indices[row])
        bucket = _bucket(wanted, base, shift, buckets)
        low, end = np.uint64(starts[bucket]), np.uint64(starts[bucket + one])
        high = end
        while low < high:
            middle = (low + high) >> one
            if np.uint64(ids[middle]) < wanted:
                low = middle + one
            else:
                high = middle
        if low == end or np.uint64(ids[low]) != wanted:
            out[row] = rare
        elif len(numbers) > 0:
            out[row] = numbers[low]
        else:
            out[row] = wanted
