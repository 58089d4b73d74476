"""The dense features, the MLPs and the interaction of a DLRM."""

from collections.abc import Mapping

import numpy as np

from robe_numba.dlrm.config import DLRMConfig
from robe_numba.onnx.graph import Graph, Value


def transformed(graph: Graph, dense: Value, transform: str) -> str:
    """Dense features as `robe ingest` writes them, float32, from raw ones, float32, where NaN is 0.

    In float64, as there; see `transform_dense`.
    """
    zero, two = np.float32(0), np.float32(2)
    if transform == "log1p":  # NaN is not greater than 0 either
        known = graph.op("Where", graph.op("Greater", dense, zero), dense, zero)
        return _logarithm(graph, known, np.float64(1))
    known = graph.op("Where", graph.op("IsNaN", dense), zero, dense)
    if transform == "none":
        return known
    if transform == "log3":
        return _logarithm(graph, graph.op("Max", known, -two), np.float64(3))
    large = graph.op("Greater", known, two)
    wide = graph.cast(graph.op("Where", large, known, two), np.float64)
    logarithm = graph.op("Log", wide)
    squared = graph.op("Floor", graph.op("Mul", logarithm, logarithm))
    return graph.op("Where", large, graph.cast(squared, np.float32), known)


def _logarithm(graph: Graph, values: Value, added: np.float64) -> str:
    """log(values + added), float32."""
    wide = graph.cast(values, np.float64)
    return graph.cast(graph.op("Log", graph.op("Add", wide, added)), np.float32)


def mlp(
    graph: Graph, x: Value, parameters: Mapping[str, np.ndarray], part: str, final_relu: bool
) -> str:
    """The layers "<part>.0.weight", "<part>.0.bias", ... with ReLU between them."""
    count = sum(name.startswith(f"{part}.") for name in parameters) // 2
    for layer in range(count):
        names = (f"{part}.{layer}.{kind}" for kind in ("weight", "bias"))
        weights = (graph.constant(parameters[name], name) for name in names)
        x = graph.op("Gemm", x, *weights, transB=1)
        if final_relu or layer < count - 1:
            x = graph.op("Relu", x)
    assert isinstance(x, str)  # there is at least one layer
    return x


def interaction(graph: Graph, x: str, embeddings: str, config: DLRMConfig) -> str:
    """What the top MLP reads, from the dense vector (batch, d) and embeddings (batch, T, d)."""
    num_tables, dim = config.num_tables, config.embedding_dim
    if config.interaction in ("cat", "dcn"):
        return graph.op("Concat", x, graph.reshape(embeddings, 0, num_tables * dim), axis=1)
    first = graph.reshape(x, 0, 1, dim)
    vectors = graph.op("Concat", first, embeddings, axis=1)
    products = graph.op("MatMul", vectors, graph.op("Transpose", vectors, perm=[0, 2, 1]))
    products = graph.reshape(products, 0, (num_tables + 1) ** 2)
    rows, columns = np.tril_indices(num_tables + 1, -1)
    pairs = (rows * (num_tables + 1) + columns).astype(np.int32)
    # For every row of the batch; `Gather` needs no copies, but takes four times as long.
    repeated = graph.op("Expand", pairs[None], graph.op("Shape", first, start=0, end=2))
    chosen = graph.op("GatherElements", products, repeated, axis=1)
    return graph.op("Concat", x, chosen, axis=1)


def cross_network(graph: Graph, x: str, parameters: Mapping[str, np.ndarray], layers: int) -> str:
    """The layers "cross.0.v", "cross.0.u", "cross.0.bias", ... of a vector (batch, n)."""
    y = x
    for layer in range(layers):
        names = [f"cross.{layer}.{part}" for part in ("v", "u", "bias")]
        v, u, bias = (graph.constant(parameters[name], name) for name in names)
        factor = graph.op("Gemm", graph.op("Gemm", y, v, transB=1), u, bias, transB=1)
        y = graph.op("Add", graph.op("Mul", x, factor), y)
    return y
