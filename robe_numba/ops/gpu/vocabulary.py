"""Row numbers of known ids on a GPU: as `robe_numba.dlrm.embeddings.vocabulary`."""

from typing import Any

import numpy as np

from robe_numba.checks.ids import INDEX_DTYPES
from robe_numba.kernels.gpu import arrays
from robe_numba.kernels.gpu.vocabulary import find_rows
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
