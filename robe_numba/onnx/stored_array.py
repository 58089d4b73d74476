"""The array of an embedding as constants of a model, and how rows are gathered from it."""

from math import gcd

import numpy as np

from robe_numba.kernels.coefficients import hash_spec
from robe_numba.onnx.graph import Graph
from robe_numba.quantization.quantized import BLOCK, quantize
from robe_numba.spec import Spec, TableSpec

DTYPES = ("float32", "float16", "bfloat16", "int8")


def unit_of(spec: Spec, dtype: str) -> int:
    """Elements that are gathered together; starts and lengths of blocks are multiples of it."""
    alignment = spec.embedding_dim if isinstance(spec, TableSpec) else spec.alignment
    unit = gcd(alignment, _length(spec))
    if dtype != "int8":
        return unit
    unit = gcd(unit, BLOCK)  # so that its elements share a scale
    return gcd(unit, spec.array_size) if _end(spec) > spec.array_size else unit


def _length(spec: Spec) -> int:
    """Elements that are read of a block."""
    return min(spec.block_size, spec.embedding_dim)


def _end(spec: Spec) -> int:
    """Where the last block ends; after the end of the array if blocks are circular."""
    if isinstance(spec, TableSpec):
        return spec.array_size
    constants = hash_spec(spec)
    return (int(constants.num_starts) - 1) * int(constants.alignment) + _length(spec)


def gather_rows(
    graph: Graph, array: np.ndarray, starts: str, spec: Spec, dtype: str, name: str
) -> str:
    """Read rows, float32 (batch, num_tables, d), without signs.

    Parameters
    ----------
    array : ndarray, (array_size,) float32
        The array.
    starts : str
        int64 or uint64 (batch, num_tables, blocks), in units of `unit_of`.
    dtype : str
        One of DTYPES, of the array in the model.
    name : str
        Of the array in the model.
    """
    unit, length = unit_of(spec, dtype), _length(spec)
    index = np.int32 if max(spec.array_size, _end(spec)) // unit < 2**31 else np.int64
    positions = graph.op("Unsqueeze", graph.cast(starts, index), np.array([3], np.int64))
    if length > unit:
        positions = graph.op("Add", positions, np.arange(length // unit, dtype=index))
    if dtype == "int8":
        rows = _gather_int8(graph, array, positions, spec, name, index)
    else:
        # What is read after the end is repeated there, so that no position needs to be wrapped.
        repeated = array[: max(_end(spec) - array.size, 0)]
        stored = np.concatenate([array, repeated]) if repeated.size else array[: _end(spec)]
        stored = stored.astype(dtype_named(dtype), copy=False).reshape(-1, unit)
        rows = graph.op("Gather", graph.constant(stored, name), positions)
        rows = rows if dtype == "float32" else graph.cast(rows, np.float32)
    rows = graph.reshape(rows, 0, spec.num_tables, spec.num_blocks * length)
    if spec.num_blocks * length > spec.embedding_dim:
        return graph.first(rows, spec.embedding_dim, axis=2)
    return rows


def _gather_int8(
    graph: Graph, array: np.ndarray, positions: str, spec: Spec, name: str, index: type
) -> str:
    """Values times the scales of their blocks; here positions are wrapped."""
    unit, end = unit_of(spec, "int8"), _end(spec)
    quantized = quantize(array)
    if end > array.size:
        size = np.asarray(array.size // unit, index)
        beyond = graph.op("GreaterOrEqual", positions, size)
        positions = graph.op("Where", beyond, graph.op("Sub", positions, size), positions)
    values = np.resize(quantized.values, -(-array.size // unit) * unit).reshape(-1, unit)
    levels = graph.op("Gather", graph.constant(values, name), positions)
    blocks = graph.op("Div", positions, np.asarray(BLOCK // unit, index))
    scales = graph.constant(quantized.scales[:, None], f"{name}.scales")
    return graph.op("Mul", graph.cast(levels, np.float32), graph.op("Gather", scales, blocks))


def dtype_named(name: str) -> np.dtype:
    """A dtype of NumPy, or bfloat16."""
    if name == "bfloat16":
        from ml_dtypes import bfloat16

        return np.dtype(bfloat16)
    return np.dtype(name)
