"""A DLRM with the preparation of its inputs as one ONNX model."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from onnx import ModelProto, TensorProto, helper

import robe_numba
from data_tools.vocabulary.id_map import IdMap
from robe_numba.dlrm import DLRM
from robe_numba.onnx.embedding import embed, start_unit
from robe_numba.onnx.graph import Graph
from robe_numba.onnx.layers import cross_network, interaction, mlp, transformed
from robe_numba.onnx.prepared_ids import prepared_ids, what_is_outside

OPSET, IR_VERSION = 18, 8  # the first with bitwise operators, and the format of its time
BATCH = "batch"


class Export(NamedTuple):
    """A model without its constants, the constants, and what the model does not do."""

    model: ModelProto
    constants: dict[str, np.ndarray]
    outside: list[str]  # sentences


def build_model(
    model: DLRM,
    facts: Mapping[str, Any],
    digest: str,
    dtype: str,
    vocabulary: IdMap | None = None,
) -> Export:
    """Everything from raw features and raw ids to the probability.

    Parameters
    ----------
    model : DLRM
        float32, on the CPU.
    facts : mapping
        "dataset" of the run's config.json.
    digest : str
        Of the run's model.
    dtype : str
        Of the embedding's arrays in the model.
    vocabulary : IdMap, optional
        That of the dataset, if ids are to be mapped by the model.
    """
    graph = Graph()
    ids = prepared_ids(graph, "ids", facts, vocabulary)
    dense = transformed(graph, "dense", facts["dense_transform"])
    x = mlp(graph, dense, _layers(model, "bottom"), "bottom", final_relu=True)
    rows = embed(graph, ids, model.embedding, dtype)
    joined = interaction(graph, x, rows, model.config)
    joined = cross_network(graph, joined, _layers(model, "cross"), len(model.config.cross_ranks))
    logits = mlp(graph, joined, _layers(model, "top"), "top", final_relu=False)
    column = graph.op("Sigmoid", logits)
    graph.op("Squeeze", column, np.array([1], np.int64), name="probability")
    inputs = [
        _tensor("dense", TensorProto.FLOAT, model.config.num_dense),
        _tensor("ids", TensorProto.INT64, model.config.num_tables),
    ]
    outputs = [_tensor("probability", TensorProto.FLOAT)]
    proto = helper.make_model(
        helper.make_graph(graph.nodes, "robe", inputs, outputs),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="robe_numba",
        producer_version=robe_numba.__version__,
    )
    outside = what_is_outside(facts, vocabulary)
    origin = {"digest": digest, "dtype": dtype, "outside": " ".join(outside)}
    helper.set_model_props(proto, _metadata(model, facts, dtype) | origin)
    return Export(proto, graph.constants, outside)


def _metadata(model: DLRM, facts: Mapping[str, Any], dtype: str) -> dict[str, str]:
    """What inputs mean and how ids are hashed."""
    embedding = model.embedding.describe()
    return {
        "dense": json.dumps(facts["dense"]),
        "ids": json.dumps(facts["categorical"]),
        "dense_transform": facts["dense_transform"],
        "max_ind_range": json.dumps(facts.get("max_ind_range")),
        "embedding": json.dumps({"kind": embedding["kind"], "specs": embedding["specs"]}),
        "start_unit": json.dumps(start_unit(model.embedding, dtype)),
    }


def _layers(model: DLRM, part: str) -> dict[str, np.ndarray]:
    return {n: array for n, array in model.parameters().items() if n.startswith(f"{part}.")}


def _tensor(name: str, kind: int, *columns: int) -> Any:
    return helper.make_tensor_value_info(name, kind, [BATCH, *columns])
