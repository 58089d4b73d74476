"""Row numbers of known ids on a GPU: as `robe_numba.dlrm.embeddings.vocabulary`."""

from typing import Any

import numpy as np

from robe_numba.checks.bags import check_bag_ids_shape, check_offsets_shape
from robe_numba.checks.ids import INDEX_DTYPES
from robe_numba.kernels.gpu import arrays
from robe_numba.kernels.gpu.vocabulary import find_bag_rows, find_rows
from robe_numba.ops.gpu.device import stream_of
from robe_numba.ops.gpu.views import view


def known_rows(ids: Any, offsets: Any, indices: Any) -> Any:
    """As `robe_numba.dlrm.embeddings.vocabulary.known_rows`, of GPU arrays."""
    wanted, num_tables = view("indices", indices, None, INDEX_DTYPES), len(offsets) - 1
    if len(wanted.shape) != 2 or wanted.shape[1] != num_tables:
        raise ValueError(
            f"indices has shape {tuple(wanted.shape)} but must be (batch, {num_tables})"
        )
    with stream_of(indices) as context:
        rows = context.empty(tuple(wanted.shape), np.int64)
        known = arrays.of(ids), arrays.of(offsets)
        find_rows.launch_each(context, wanted.size, *known, wanted.flat(), arrays.of(rows).flat())
    return rows


def known_bag_rows(ids: Any, offsets: Any, indices: Any, bag_offsets: Any) -> Any:
    """As `robe_numba.dlrm.embeddings.vocabulary.known_bag_rows`; values are not checked."""
    wanted = view("indices", indices, None, INDEX_DTYPES)
    check_bag_ids_shape(wanted)
    bounds = view("offsets", bag_offsets, None, INDEX_DTYPES)
    check_offsets_shape(bounds, len(offsets) - 1)
    with stream_of(indices) as context:
        rows = context.empty((wanted.size,), np.int64)
        known = arrays.of(ids), arrays.of(offsets)
        find_bag_rows.launch_each(context, wanted.size, *known, wanted, bounds, arrays.of(rows))
    return rows
