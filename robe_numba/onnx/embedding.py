"""The four kinds of embedding: from raw ids to rows."""

import numpy as np

from robe_numba.dlrm.embeddings.base import Embedding
from robe_numba.dlrm.embeddings.kinds import NUMBERED, specs_from
from robe_numba.kernels.coefficients import hash_spec
from robe_numba.onnx.graph import Graph, Value
from robe_numba.onnx.hashing import block_starts, row_keys, signs
from robe_numba.onnx.known_ids import known_rows, row_type
from robe_numba.onnx.stored_array import gather_rows, index_type, unit_of
from robe_numba.spec import Spec

STARTS = "starts"


def embed(graph: Graph, ids: Value, embedding: Embedding, dtype: str) -> str:
    """Embeddings, float32 (batch, num_tables, d).

    Parameters
    ----------
    ids : uint64 (batch, num_tables)
        Raw ids.
    embedding : Embedding
        Of any kind.
    dtype : str
        Of its arrays in the model.
    """
    description, arrays = embedding.describe(), embedding.parameters()
    specs = specs_from(description["kind"], description["specs"])
    if embedding.kind not in NUMBERED:
        return robe_rows(graph, ids, arrays["array"], specs["array"], dtype)
    known, offsets = embedding.tables().values()
    index = row_type(len(known))
    rows = known_rows(graph, ids, known, offsets, index, "known")
    if embedding.kind == "full":
        return table_rows(graph, rows, arrays["array"], specs["array"], dtype, "array")
    sizes = np.array(specs["remainder"].num_embeddings, index)
    factors = [
        table_rows(graph, graph.op(kind, rows, sizes), arrays[name], specs[name], dtype, name)
        for name, kind in (("quotient", "Div"), ("remainder", "Mod"))
    ]
    return graph.op("Mul", *factors)


def start_unit(embedding: Embedding, dtype: str) -> int | None:
    """Elements of which the tensor `starts` counts; None for the kinds that do not hash."""
    if embedding.kind in NUMBERED:
        return None
    description = embedding.describe()
    return unit_of(specs_from(description["kind"], description["specs"])["array"], dtype)


def robe_rows(graph: Graph, ids: Value, array: np.ndarray, spec: Spec, dtype: str) -> str:
    """Rows of a shared array, with signs; the tensor `starts` has where their blocks begin."""
    keys = row_keys(graph, ids, spec)
    starts = block_starts(graph, keys, spec, unit_of(spec, dtype))
    if spec.num_blocks > 1:
        starts = graph.cast(starts, index_type(spec, dtype), name=STARTS)
    else:
        starts = graph.unsqueeze(graph.cast(starts, index_type(spec, dtype)), 2, name=STARTS)
    rows = gather_rows(graph, array, starts, spec, dtype, "array")
    return graph.op("Mul", rows, signs(graph, keys, spec)) if spec.sign else rows


def table_rows(
    graph: Graph, rows: Value, array: np.ndarray, spec: Spec, dtype: str, name: str
) -> str:
    """Rows of plain tables, given their numbers (batch, num_tables)."""
    index, dim, unit = index_type(spec, dtype), spec.embedding_dim, unit_of(spec, dtype)
    offsets = hash_spec(spec).coefficients[1, :, 0] // np.uint64(dim)
    places = graph.op("Add", graph.cast(rows, index), offsets.astype(index))
    if unit != dim:
        places = graph.op("Mul", places, np.asarray(dim // unit, index))
    return gather_rows(graph, array, graph.unsqueeze(places, 2), spec, dtype, name)
