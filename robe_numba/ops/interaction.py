"""Embeddings and their interaction in one pass, for models that need nothing else of them.

Source: Naumov et al., Deep Learning Recommendation Model, 2019, arXiv 1906.00091.
"""

import numpy as np

from robe_numba.checks.arrays import (
    StoredArray,
    check_array,
    check_kept_starts,
    check_out,
    check_stored_array,
    parts_of,
    real_dtype,
)
from robe_numba.checks.ids import check_indices
from robe_numba.checks.scalars import check_spec
from robe_numba.kernels.coefficients import hash_spec
from robe_numba.kernels.cpu.interaction import (
    RowBuffers,
    lookup_dot,
    padded,
    padded_width,
    products_size,
)
from robe_numba.kernels.cpu.launch import launch, threads_for
from robe_numba.memory import scratch
from robe_numba.ops.devices import on_any_device
from robe_numba.spec import Spec


@on_any_device("interaction")
def lookup_dot_interaction(
    array: StoredArray,
    indices: np.ndarray,
    dense: np.ndarray,
    spec: Spec,
    out: np.ndarray | None = None,
    starts: np.ndarray | None = None,
) -> np.ndarray:
    """The dense vector, then the dot product of each pair of it and the row's embeddings.

    As `lookup` followed by `robe_numba.dlrm.dot_interaction`, without writing the embeddings to
    memory. With v_0 the dense vector and v_1 ... v_T the embeddings, the pairs follow as the
    strictly lower triangle in rows: <v_1, v_0>, <v_2, v_0>, <v_2, v_1>, <v_3, v_0>, ...

    Parameters
    ----------
    array : ndarray, (array_size,) float32, float64, float16 or ml_dtypes' bfloat16
        The shared array; or a `QuantizedArray` of as many elements.
    indices : ndarray, (batch, num_tables) int32, int64, uint32 or uint64
        The row of each table.
    dense : ndarray, (batch, d) of the result's dtype
        The dense vectors.
    spec : RobeSpec or TableSpec
        How rows are read.
    out : ndarray, (batch, d + (num_tables + 1) num_tables / 2) of the result's dtype, optional
        Filled in and returned; None allocates it.
    starts : ndarray, (batch, num_tables, blocks) int64, optional
        Filled with what `block_starts` gives.

    Returns
    -------
    ndarray, (batch, d + (num_tables + 1) num_tables / 2) of the dtype of `array`, or float32
        Float32 for halves and int8.

    Raises
    ------
    TypeError, ValueError
        An argument of another type, shape, dtype or order, an index outside its table, or `out` or
        `starts` read-only or in the memory of another argument.
    """
    check_spec(spec)
    stored = check_stored_array(array, spec)
    ids = check_indices(indices, spec)
    batch, tables, dim = len(indices), spec.num_tables, spec.embedding_dim
    real = real_dtype(stored)
    check_array("dense", dense, (batch, dim), (real,))
    read = parts_of("array", array) | {"indices": indices, "dense": dense}
    out = check_out("out", out, (batch, dim + (tables + 1) * tables // 2), real, read)
    flat, keep = check_kept_starts(starts, (batch, tables, spec.num_blocks), read | {"out": out})
    width = padded_width(dim)
    threads = threads_for(batch * tables * dim)
    if not keep:
        flat = scratch("tiles", (threads * 2 * tables * spec.num_blocks,), np.uint64)
    vectors = scratch("vectors", (threads, padded(tables + 1) * width), real)
    products = scratch("products", (threads, products_size(tables + 1)), real)
    buffers = RowBuffers(vectors, np.uint64(width), products)
    constants, vector, rows = hash_spec(spec), dense.reshape(-1), out.reshape(-1)
    launch(threads, lookup_dot, stored, flat, constants, ids, vector, keep, buffers, rows)
    return out
