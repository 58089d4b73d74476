"""Binary search for an id among the known ids of its table, for any target."""

from typing import Any

from robe_numba._jit import inlined


@inlined
def find_row(ids: Any, offsets: Any, table: Any, wanted: Any) -> Any:
    """The row of an id in its table, or 0 if it is unknown."""
    low, high = offsets[table], offsets[table + 1]
    while low < high:
        middle = (low + high) // 2
        if ids[middle] < wanted:
            low = middle + 1
        else:
            high = middle
    found = low < offsets[table + 1] and ids[low] == wanted
    return low - offsets[table] + 1 if found else 0
