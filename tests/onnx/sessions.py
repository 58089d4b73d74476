"""Graphs and models in ONNX Runtime, on one thread."""

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from robe_numba.onnx.graph import tensor_type
from robe_numba.onnx.model import IR_VERSION, OPSET
from tests.support.strategies import EDGES


def session(model):
    """A session of a file's path or of a serialized model."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3  # constant folding leaves constants that nothing reads
    source = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def run_graph(graph, outputs, **inputs):
    """The outputs of a graph by name, in the strict types of ONNX."""
    tensors = [
        helper.make_tensor_value_info(name, tensor_type(value.dtype), ["n", *value.shape[1:]])
        for name, value in inputs.items()
    ]
    results = [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in outputs]
    for result in results:
        result.ClearField("type")  # to be inferred
    constants = [numpy_helper.from_array(value, n) for n, value in graph.constants.items()]
    model = helper.make_model(
        helper.make_graph(graph.nodes, "test", tensors, results, constants),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    return session(inferred.SerializeToString()).run(outputs, inputs)


def tensor_of(path, name, **inputs):
    """A tensor inside a model's file, which becomes its output."""
    model = onnx.load(path)
    kinds = {
        value.name: value for value in onnx.shape_inference.infer_shapes(model).graph.value_info
    }
    model.graph.output.append(kinds[name])
    return session(model.SerializeToString()).run([name], inputs)[0]


def any_ids(seed, rows, num_tables):
    """int64 ids: small ones, which collide, and all at which integer arithmetic goes wrong."""
    generator, shape = np.random.default_rng(seed), (rows, num_tables)
    edges = generator.choice(np.array(EDGES, np.uint64).view(np.int64), shape)
    small, any_id = generator.integers(0, 4, shape), generator.integers(-(2**63), 2**63 - 1, shape)
    return np.choose(generator.integers(0, 3, shape), [small, any_id, edges])
