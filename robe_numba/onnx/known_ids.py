"""From raw ids to the row numbers of uncompressed tables: a hash table in standard operators.

The known ids of each table are sorted by their mixed values, which are spread evenly. So the upper
bits of a mixed id lead to a bucket of few neighbours, all of which are compared with it.
"""

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from robe_numba.kernels.scalar import hashing
from robe_numba.onnx.graph import Graph, Value
from robe_numba.onnx.hashing import WORD_BITS, mix

IDS_PER_BUCKET = 2  # at most, on average


class _HashTable(NamedTuple):
    """The known ids of all tables, with their row numbers."""

    shifts: np.ndarray  # uint64 (num_tables,): the bits of a mixed id that are not of its bucket
    first_buckets: np.ndarray  # (num_tables,), of each table
    buckets: np.ndarray  # where each begins among the keys
    keys: np.ndarray  # uint64, mixed ids
    rows: np.ndarray  # their row numbers, and 0 for key 0, which belongs to no table
    longest: int  # keys of a bucket


def known_rows(
    graph: Graph, ids: Value, known: np.ndarray, offsets: np.ndarray, index: np.dtype, name: str
) -> str:
    """The row of each id (batch, num_tables): i for the i-th smallest known id, 0 for others.

    Parameters
    ----------
    ids : uint64 (batch, num_tables)
        Raw ids.
    known, offsets : ndarray, (num_ids,) uint64 and (num_tables + 1,) int64
        Those of a `Vocabulary`.
    index : dtype
        Of positions and rows: int32 or int64.
    name : str
        What names of constants begin with.
    """
    table, num_tables = _hash_table(known, offsets, index), len(offsets) - 1
    keys = mix(graph, ids)
    buckets = graph.op("BitShift", keys, table.shifts, direction="RIGHT")
    buckets = graph.op("Add", graph.cast(buckets, index), table.first_buckets)
    begins = graph.constant(table.buckets, f"{name}.buckets")
    first = graph.elements(begins, buckets, -1, num_tables, 1)
    places = graph.op("Add", first, np.arange(table.longest, dtype=index))
    mixed = graph.constant(table.keys, f"{name}.keys")
    candidates = graph.elements(mixed, places, -1, num_tables, table.longest)
    same = graph.op("Equal", candidates, graph.unsqueeze(keys, 2))
    found = graph.op("Where", same, places, np.asarray(0, index))
    place = graph.op("ReduceMax", found, np.array([2], np.int64), keepdims=0)
    return graph.elements(graph.constant(table.rows, f"{name}.rows"), place, -1, num_tables)


def row_type(num_ids: int) -> np.dtype:
    """int32 where it holds every position in a hash table, else int64."""
    return np.dtype(np.int32 if num_ids < 2**30 else np.int64)


def _hash_table(known: np.ndarray, offsets: np.ndarray, index: np.dtype) -> _HashTable:
    """Tables one after the other.

    After its keys a table has its last one again, as often as a bucket may be long: so what is read
    after the last bucket is no key of the next table.
    """
    shifts, counts, keys, rows = [], [], [], []
    for first, last in pairwise(offsets.tolist()):
        mixed = hashing.mix.py_func(known[first:last])
        order = np.argsort(mixed)
        bits = max(1, ((last - first) // IDS_PER_BUCKET).bit_length())
        shifts.append(WORD_BITS - bits)
        filled = (mixed >> np.uint64(shifts[-1])).astype(np.int64)
        counts.append(np.bincount(filled, minlength=1 << bits))
        keys.append(mixed[order])
        rows.append((order + 1).astype(index))
    longest = max(1, *(int(count.max()) for count in counts))
    firsts = np.cumsum([1, *(len(column) + longest for column in keys)])
    buckets = [
        first + np.cumsum(count) - count for first, count in zip(firsts, counts, strict=False)
    ]
    return _HashTable(
        np.array(shifts, np.uint64),
        np.cumsum([0, *map(len, counts[:-1])]).astype(index),
        np.concatenate(buckets).astype(index),
        _joined(keys, longest),
        _joined(rows, longest),
        longest,
    )


def _joined(columns: list[np.ndarray], times: int) -> np.ndarray:
    """A zero, then each column, followed by its last element (0 if it is empty) `times` times."""
    zero = np.zeros(1, columns[0].dtype)
    ends = (np.repeat(column[-1:] if len(column) else zero, times) for column in columns)
    pairs = zip(columns, ends, strict=True)
    return np.concatenate([zero, *(part for pair in pairs for part in pair)])
