"""Embeddings and their interaction in one pass on a GPU, as `robe_numba.ops.interaction`."""

from typing import Any

import numpy as np

from robe_numba.checks.arrays import real_dtype
from robe_numba.checks.scalars import check_spec
from robe_numba.kernels.gpu import arrays, device
from robe_numba.kernels.gpu import starts as gpu_starts
from robe_numba.kernels.gpu.arrays import INT64
from robe_numba.kernels.gpu.interaction import forward, tiles
from robe_numba.ops.gpu.rows import check_ids
from robe_numba.spec import Spec


def lookup_dot_interaction(
    array: Any, indices: Any, dense: Any, spec: Spec, out: Any = None, starts: Any = None
) -> Any:
    """See `robe_numba.lookup_dot_interaction`."""
    check_spec(spec)
    values = arrays.stored_view(array, spec)
    ids = check_ids(indices, spec)
    batch, tables, dim = ids.shape[0], spec.num_tables, spec.embedding_dim
    real = real_dtype(values)
    features = arrays.view("dense", dense, (batch, dim), (real,)).flat()
    width = tiles.columns_at_once(tables + 1, dim, real.itemsize)
    read = {"array": values, "indices": indices, "dense": dense}
    arrays.check_apart({"out": out, "starts": starts}, read)
    with device.work_on(array) as work:
        shape = (batch, dim + (tables + 1) * tables // 2)
        out = work.empty(shape, real) if out is None else out
        target = arrays.view("out", out, shape, (real,), written=True).flat()
        blocks = (batch, tables, spec.num_blocks)
        starts = work.empty(blocks, np.int64) if starts is None else starts
        places = arrays.view("starts", starts, blocks, INT64, True).flat(np.uint64)
        gpu_starts.launch(work, ids.flat(), spec, places)
        forward.launch(work, values, ids.flat(), features, spec, places, target, width)
    return out
