"""Embeddings and their interaction in one pass on a GPU: as `robe_numba.ops.interaction`."""

from typing import Any

import numpy as np

from robe_numba.checks.arrays import real_dtype
from robe_numba.checks.scalars import check_spec
from robe_numba.kernels.gpu.interaction import tiles
from robe_numba.kernels.gpu.interaction.forward import lookup_dot
from robe_numba.kernels.gpu.starts import hash_starts
from robe_numba.ops.gpu.device import stream_of
from robe_numba.ops.gpu.rows import check_ids
from robe_numba.ops.gpu.views import INT64, check_apart, stored_view, view
from robe_numba.spec import Spec


def lookup_dot_interaction(
    array: Any, indices: Any, dense: Any, spec: Spec, out: Any = None, starts: Any = None
) -> Any:
    """As `robe_numba.lookup_dot_interaction`, of GPU arrays."""
    check_spec(spec)
    values = stored_view(array, spec)
    ids = check_ids(indices, spec)
    batch, tables, dim = ids.shape[0], spec.num_tables, spec.embedding_dim
    real = real_dtype(values)
    features = view("dense", dense, (batch, dim), (real,)).flat()
    width = tiles.columns_at_once(tables + 1, dim, real.itemsize)
    read = {"array": values, "indices": indices, "dense": dense}
    check_apart({"out": out, "starts": starts}, read)
    with stream_of(array) as context:
        shape = (batch, dim + (tables + 1) * tables // 2)
        out = context.empty(shape, real) if out is None else out
        target = view("out", out, shape, (real,), written=True).flat()
        blocks = (batch, tables, spec.num_blocks)
        starts = context.empty(blocks, np.int64) if starts is None else starts
        places = view("starts", starts, blocks, INT64, True).flat(np.uint64)
        hash_starts(context, ids.flat(), spec, places)
        lookup_dot(context, values, ids.flat(), features, spec, places, target, width)
    return out
