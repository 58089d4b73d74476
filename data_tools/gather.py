"""Gather lists of ids by an order of their rows, each copied once."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from data_tools.batch import Lists
from robe_numba._jit import jit

NOWHERE = -1  # the place of a list that is not wanted


def gather_lists(parts: Sequence[Lists], order: np.ndarray) -> Lists:
    """Select lists of consecutive parts in the given order.

    Each part is read from front to back, and its lists go to their places in the result. So the
    parts need not be joined first, and a mapped file is not read in a random order.

    Parameters
    ----------
    parts : sequence of Lists
        At least one; all with weights, or none.
    order : ndarray, (rows,) int
        Rows of all parts together, each at most once.

    Returns
    -------
    Lists
        New arrays, with int64 offsets from 0.
    """
    lengths = np.concatenate([np.diff(part.offsets) for part in parts])
    offsets = np.zeros(len(order) + 1, np.int64)
    np.cumsum(lengths[order], out=offsets[1:])
    places = np.full(len(lengths), NOWHERE, np.int64)
    places[order] = offsets[:-1]
    values = np.empty(int(offsets[-1]), parts[0].values.dtype)
    weights = None if parts[0].weights is None else np.empty(len(values), np.float32)
    first = 0
    for part in parts:
        last = first + len(part.offsets) - 1
        _place(_read_only(part.values), _read_only(part.offsets), places[first:last], values)
        if weights is not None:
            _place(_read_only(part.weights), _read_only(part.offsets), places[first:last], weights)
        first = last
    return Lists(values, offsets, weights)


def _read_only(array: Any) -> np.ndarray:
    """The array as mapped shards give it, so that one kernel serves all."""
    view = array.view()
    view.flags.writeable = False
    return view


@jit
def _place(values: Any, offsets: Any, places: Any, out: Any) -> None:
    """Copy each list of a part to its place in `out`."""
    for row in range(places.size):
        if places[row] != NOWHERE:
            begin, to = offsets[row], places[row]
            for number in range(offsets[row + 1] - begin):
                out[to + number] = values[begin + number]
