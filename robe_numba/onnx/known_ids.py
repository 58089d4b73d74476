"""From raw ids to the row numbers of uncompressed tables, by a binary search of all tables at once."""

import numpy as np

from robe_numba.onnx.graph import Graph, Value

FLIPPED = np.int64(-(2**63))  # with its top bit flipped, an unsigned word is ordered as a signed one


def known_rows(graph: Graph, ids: Value, known: np.ndarray, offsets: np.ndarray) -> str:
    """The row of each id, int64 (batch, num_tables): i for the i-th smallest known id, 0 for others.

    Parameters
    ----------
    ids : int64 (batch, num_tables)
        Raw ids.
    known, offsets : ndarray, (num_ids,) uint64 and (num_tables + 1,) int64
        Those of a `Vocabulary`.
    """
    index = np.int32 if len(known) < 2**30 else np.int64
    first, last = offsets[:-1].astype(index), offsets[1:].astype(index)
    # An element before all others, so that the position before the first id can be read.
    ordered = np.concatenate([np.zeros(1, np.int64), known.view(np.int64) ^ FLIPPED])
    table = graph.constant(ordered, "known_ids")
    wanted = graph.op("BitwiseXor", ids, FLIPPED)
    # Position p is that of the last id that is known not to be greater; `first` if there is none.
    position: Value = first
    for bit in reversed(range(int(np.diff(offsets).max()).bit_length())):
        probe = graph.op("Min", graph.op("Add", position, np.asarray(1 << bit, index)), last)
        fits = graph.op("LessOrEqual", graph.op("Gather", table, probe), wanted)
        position = graph.op("Where", fits, probe, position)
    same = graph.op("Equal", graph.op("Gather", table, position), wanted)
    rows = graph.op("Where", same, graph.op("Sub", position, first), np.asarray(0, index))
    return graph.cast(rows, np.int64)
