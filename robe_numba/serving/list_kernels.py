"""Lists of ids row after row, see `RowLists`: checks, and the bags of the rows, table-major."""

import math
from typing import Any

from robe_numba._jit import jit


@jit
def read_lengths(lengths: Any, count: Any, most: Any, ends: Any, kept: Any) -> Any:
    """Where each list of `count` ids ends, and how many of its ids count: at most its last `most`.

    Returns the first list that is negative or too long, their number if ids are left over, or -1.
    """
    end = 0
    for i in range(lengths.size):
        if lengths[i] < 0 or lengths[i] > count - end:
            return i
        end += lengths[i]
        ends[i] = end
        kept[i] = min(lengths[i], most)
    return -1 if end == count else lengths.size


@jit
def find_outside(values: Any, ends: Any, kept: Any, limits: Any) -> Any:
    """The first id that counts and is not below the limit of its feature, or -1."""
    for i in range(ends.size):
        for k in range(ends[i] - kept[i], ends[i]):
            if values[k] >= limits[i % limits.size]:
                return k
    return -1


@jit
def find_wrong_weight(weights: Any, ends: Any, weighted: Any) -> Any:
    """The first weight that is not finite, or not 1 where the feature has none; or -1."""
    begin = 0
    for i in range(ends.size):
        for k in range(begin, ends[i]):
            fits = math.isfinite(weights[k]) if weighted[i % weighted.size] else weights[k] == 1
            if not fits:
                return k
        begin = ends[i]
    return -1


@jit
def table_major(
    ids: Any, lists: Any, first: Any, last: Any, sizes: Any, values: Any, weights: Any, offsets: Any
) -> None:
    """Fill in the bags of rows [first, last); `sizes` are T1 and T2, and `ids` are flat."""
    num_single, features = sizes
    place = 0
    offsets[0] = 0
    for table in range(num_single):
        for row in range(first, last):
            values[place] = ids[row * num_single + table]
            place += 1
            offsets[place] = place
    bag = place
    weights[: place if weights.size else 0] = 1
    for feature in range(features):
        for row in range(first, last):
            end = lists.ends[row * features + feature]
            for k in range(end - lists.kept[row * features + feature], end):
                values[place] = lists.values[k]
                if weights.size:
                    weights[place] = lists.weights[k]
                place += 1
            bag += 1
            offsets[bag] = place
