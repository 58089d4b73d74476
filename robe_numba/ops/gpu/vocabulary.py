"""Row numbers of known ids on a GPU: as `robe_numba.dlrm.embeddings.vocabulary`."""

from typing import Any

import numpy as np

from robe_numba.checks.ids import INDEX_DTYPES
from robe_numba.kernels.gpu import arrays, device
from robe_numba.kernels.gpu.compiler import cuda
from robe_numba.kernels.gpu.launch import Kernel
from robe_numba.kernels.gpu.layers import by_elements
from robe_numba.kernels.scalar.searching import find_row


@Kernel
def find_rows(ids, offsets, indices, rows):
    """rows (n,) of indices (n,), table after table in turn."""
    i = cuda.grid(1)
    if i < indices.size:
        table = i % (offsets.size - 1)
        rows[i] = find_row(ids, offsets, table, np.uint64(indices[i]))


def known_rows(ids: Any, offsets: Any, indices: Any) -> Any:
    """See `robe_numba.dlrm.embeddings.vocabulary.known_rows`."""
    wanted, num_tables = arrays.view("indices", indices, None, INDEX_DTYPES), len(offsets) - 1
    if len(wanted.shape) != 2 or wanted.shape[1] != num_tables:
        raise ValueError(
            f"indices has shape {tuple(wanted.shape)} but must be (batch, {num_tables})"
        )
    with device.work_on(indices) as work:
        rows = work.empty(tuple(wanted.shape), np.int64)
        known = arrays.of(ids), arrays.of(offsets)
        arguments = (*known, wanted.flat(), arrays.of(rows).flat())
        by_elements(work, find_rows, wanted.size, *arguments)
    return rows
