"""The array of an embedding as constants of a model, and how rows are gathered from it."""

from math import gcd

import numpy as np

from robe_numba.kernels.coefficients import hash_spec
from robe_numba.onnx.graph import Graph, Value
from robe_numba.quantization.quantized import BLOCK, QuantizedArray
from robe_numba.quantization.storages import store
from robe_numba.spec import Spec, TableSpec

LEAST_UNIT = 8  # shorter pieces of rows are gathered faster element by element


def unit_of(spec: Spec, dtype: str) -> int:
    """Elements that are gathered together: starts and lengths of blocks are multiples of it."""
    alignment = spec.embedding_dim if isinstance(spec, TableSpec) else spec.alignment
    unit = gcd(alignment, _length(spec))
    if dtype == "int8":
        unit = gcd(unit, BLOCK)  # so that its elements share a scale
        unit = gcd(unit, spec.array_size) if _end(spec) > spec.array_size else unit
    return unit if unit >= LEAST_UNIT else 1


def index_type(spec: Spec, dtype: str) -> np.dtype:
    """int32 where it holds every position, else int64."""
    most = max(spec.array_size, _end(spec)) // unit_of(spec, dtype)
    return np.dtype(np.int32 if most < 2**31 else np.int64)


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
    graph: Graph, array: np.ndarray, starts: Value, spec: Spec, dtype: str, name: str
) -> str:
    """Read rows, float32 (batch, num_tables, d), without signs.

    Parameters
    ----------
    array : ndarray, (array_size,) float32
        The array.
    starts : str
        Of `index_type`, (batch, num_tables, blocks), in units of `unit_of`.
    dtype : str
        One of STORAGES, of the array in the model.
    name : str
        Of the array in the model.
    """
    unit, length = unit_of(spec, dtype), _length(spec)
    positions = starts
    if length > unit:
        if spec.num_blocks > 1:
            positions = graph.unsqueeze(positions, 3)
        steps = np.arange(length // unit, dtype=index_type(spec, dtype))
        positions = graph.op("Add", positions, steps)
    shape = spec.num_tables, spec.num_blocks * length
    stored = store(array, dtype)
    if isinstance(stored, QuantizedArray):
        rows = _gather_int8(graph, stored, positions, spec, name)
    else:
        # What is read after the end is repeated there, so that no position needs to be wrapped.
        repeated = stored[: max(_end(spec) - stored.size, 0)]
        stored = np.concatenate([stored, repeated]) if repeated.size else stored[: _end(spec)]
        rows = _units(graph, stored, positions, unit, name, shape)
        rows = rows if dtype == "float32" else graph.cast(rows, np.float32)
    return rows if shape[1] == spec.embedding_dim else graph.first(rows, spec.embedding_dim, 2)


def _units(
    graph: Graph, array: np.ndarray, positions: Value, unit: int, name: str, shape: tuple[int, int]
) -> str:
    """Elements or stretches of `unit` elements, (batch, *shape)."""
    if unit == 1:
        return graph.elements(graph.constant(array, name), positions, -1, *shape)
    table = graph.constant(array.reshape(-1, unit), name)
    return graph.reshape(graph.op("Gather", table, positions), 0, *shape)


def _gather_int8(
    graph: Graph, array: QuantizedArray, positions: Value, spec: Spec, name: str
) -> str:
    """Values times the scales of their blocks; here positions are wrapped."""
    unit, index = unit_of(spec, "int8"), index_type(spec, "int8")
    if _end(spec) > spec.array_size:
        size = np.asarray(spec.array_size // unit, index)
        beyond = graph.op("GreaterOrEqual", positions, size)
        positions = graph.op("Where", beyond, graph.op("Sub", positions, size), positions)
    columns = spec.num_blocks * _length(spec) // unit
    values = array.values[: spec.array_size // unit * unit]
    levels = _units(graph, values, positions, unit, name, (spec.num_tables, columns * unit))
    levels = graph.cast(levels, np.float32)
    blocks = graph.op("Div", positions, np.asarray(BLOCK // unit, index))
    table = graph.constant(array.scales, f"{name}.scales")
    scales = graph.elements(table, blocks, -1, spec.num_tables, columns)
    if unit == 1:
        return graph.op("Mul", levels, scales)
    levels = graph.reshape(levels, 0, spec.num_tables, columns, unit)
    product = graph.op("Mul", levels, graph.unsqueeze(scales, 3))
    return graph.reshape(product, 0, spec.num_tables, columns * unit)
