"""The four kinds of embedding: from raw ids to rows."""

import numpy as np

from robe_numba.dlrm.embeddings.base import Embedding
from robe_numba.dlrm.embeddings.kinds import NUMBERED, specs_from
from robe_numba.kernels.coefficients import hash_spec
from robe_numba.onnx.graph import Graph, Value
from robe_numba.onnx.hashing import block_starts, row_keys, signs
from robe_numba.onnx.known_ids import known_rows
from robe_numba.onnx.stored_array import gather_rows, unit_of
from robe_numba.spec import RobeSpec, Spec

STARTS = "starts"


def embed(graph: Graph, ids: Value, embedding: Embedding, dtype: str) -> str:
    """Embeddings, float32 (batch, num_tables, d).

    Parameters
    ----------
    ids : int64 (batch, num_tables)
        Raw ids.
    embedding : Embedding
        Of any kind.
    dtype : str
        Of its arrays in the model.
    """
    description = embedding.describe()
    specs = specs_from(description["kind"], description["specs"])
    arrays = embedding.parameters()
    if embedding.kind not in NUMBERED:
        spec = specs["array"]
        assert isinstance(spec, RobeSpec)
        return robe_rows(graph, ids, arrays["array"], spec, dtype)
    tables = embedding.tables()
    rows: Value = known_rows(graph, ids, tables["vocabulary.ids"], tables["vocabulary.offsets"])
    numbers = {name: rows for name in specs}
    if embedding.kind == "qr":
        sizes = np.array(specs["remainder"].num_embeddings, np.int64)
        quotients, remainders = (graph.op(kind, rows, sizes) for kind in ("Div", "Mod"))
        numbers = {"quotient": quotients, "remainder": remainders}
    read = [_table_rows(graph, numbers[n], arrays[n], specs[n], dtype, n) for n in specs]
    return read[0] if len(read) == 1 else graph.op("Mul", *read)


def robe_rows(graph: Graph, ids: Value, array: np.ndarray, spec: RobeSpec, dtype: str) -> str:
    """Rows of a shared array, with signs."""
    unit = unit_of(spec, dtype)
    keys = row_keys(graph, graph.cast(ids, np.uint64), spec)
    starts = block_starts(graph, keys, spec, unit)
    _name_starts(graph, starts, unit)
    rows = gather_rows(graph, array, starts, spec, dtype, "array")
    return graph.op("Mul", rows, signs(graph, keys, spec)) if spec.sign else rows


def _table_rows(
    graph: Graph, rows: Value, array: np.ndarray, spec: Spec, dtype: str, name: str
) -> str:
    """Rows of plain tables, given their numbers int64 (batch, num_tables)."""
    dim, unit = spec.embedding_dim, unit_of(spec, dtype)
    offsets = hash_spec(spec).coefficients[1, :, 0].astype(np.int64) // dim
    places = graph.op("Unsqueeze", graph.op("Add", rows, offsets), np.array([2], np.int64))
    starts = places if unit == dim else graph.op("Mul", places, np.int64(dim // unit))
    return gather_rows(graph, array, starts, spec, dtype, name)


def _name_starts(graph: Graph, starts: str, unit: int) -> None:
    """Offer the starts as the tensor `starts`, int64 in elements; nothing reads it."""
    elements = starts if unit == 1 else graph.op("Mul", starts, np.uint64(unit))
    graph.cast(elements, np.int64, name=STARTS)
