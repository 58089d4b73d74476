"""Embeddings and their interaction in one pass on a GPU, as `robe_numba.ops.interaction`."""

from typing import Any

import numpy as np

from robe_numba import checks
from robe_numba.gpu import device, dot
from robe_numba.gpu import starts as gpu_starts
from robe_numba.gpu.device import INT64
from robe_numba.gpu.rows import check_ids
from robe_numba.spec import Spec


def lookup_dot_interaction(
    array: Any, indices: Any, dense: Any, spec: Spec, out: Any = None, starts: Any = None
) -> Any:
    """See `robe_numba.lookup_dot_interaction`."""
    checks.check_spec(spec)
    values = device.stored_view(array, spec)
    ids = check_ids(indices, spec)
    batch, tables, dim = ids.shape[0], spec.num_tables, spec.embedding_dim
    real = checks.real_dtype(values)
    features = device.flat(device.view("dense", dense, (batch, dim), (real,)))
    width = dot.columns_at_once(tables + 1, dim, real.itemsize)
    read = {"array": values, "indices": indices, "dense": dense}
    device.check_apart({"out": out, "starts": starts}, read)
    with device.work_on(array) as work:
        shape = (batch, dim + (tables + 1) * tables // 2)
        out = work.empty(shape, real) if out is None else out
        target = device.flat(device.view("out", out, shape, (real,), written=True))
        blocks = (batch, tables, spec.num_blocks)
        starts = work.empty(blocks, np.int64) if starts is None else starts
        places = device.flat(device.view("starts", starts, blocks, INT64, True), np.uint64)
        gpu_starts.launch(work, device.flat(ids), spec, places)
        dot.launch(work, values, device.flat(ids), features, spec, places, target, width)
    return out
