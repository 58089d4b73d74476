"""A graph of ONNX operators that is written down in the order in which it computes."""

from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper

Value = str | np.ndarray | np.generic  # the name of a tensor, or a constant

_BFLOAT16 = "bfloat16"  # NumPy knows it only where ml_dtypes is imported


def tensor_type(dtype: np.dtype) -> int:
    """The number of a dtype in ONNX."""
    if dtype.name == _BFLOAT16:
        return int(TensorProto.BFLOAT16)
    return int(helper.np_dtype_to_tensor_dtype(dtype))


class Graph:
    """Nodes and constants; the values of nodes are named tensors.

    Attributes
    ----------
    nodes : list of NodeProto
        In an order in which they can run.
    constants : dict of str to ndarray
        What the nodes read besides their inputs.
    """

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self._names: dict[tuple[Any, ...], str] = {}  # of small constants, so that each is one

    def op(self, kind: str, *inputs: Value, name: str | None = None, **attributes: Any) -> str:
        """Add a node.

        Parameters
        ----------
        kind : str
            A standard operator with one output.
        inputs : str or ndarray
            Names of tensors, and constants.
        name : str, optional
            Of the output; by default one is made.
        attributes
            Those of the operator.

        Returns
        -------
        str
            The name of the output.
        """
        names = [value if isinstance(value, str) else self.constant(value) for value in inputs]
        output = name or f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, names, [output], output, **attributes))
        return output

    def constant(self, value: np.ndarray | np.generic, name: str | None = None) -> str:
        """Add a constant and return its name; equal small ones share a name."""
        array = np.asarray(value)
        if name is None and array.nbytes <= 4096:
            key = array.dtype.str, array.shape, array.tobytes()
            name = self._names.setdefault(key, f"constant_{len(self.constants)}")
        name = name or f"constant_{len(self.constants)}"
        self.constants[name] = array
        return name

    def cast(self, value: Value, dtype: Any, name: str | None = None) -> str:
        """Convert a tensor to a dtype."""
        return self.op("Cast", value, name=name, to=tensor_type(np.dtype(dtype)))

    def reshape(self, value: Value, *shape: int) -> str:
        """Give a tensor another shape; 0 keeps the length of that dimension."""
        return self.op("Reshape", value, np.array(shape, np.int64))

    def unsqueeze(self, value: Value, axis: int, name: str | None = None) -> str:
        """Insert a dimension of length 1."""
        return self.op("Unsqueeze", value, np.array([axis], np.int64), name=name)

    def elements(self, array: Value, positions: Value, *shape: int) -> str:
        """Gather single elements of an array (n,); the result has a given shape.

        ONNX Runtime does so several times as fast as by `Gather`, which copies each as a block.
        """
        found = self.op("GatherElements", array, self.reshape(positions, -1))
        return self.reshape(found, *shape)

    def first(self, value: Value, count: int, axis: int) -> str:
        """The first `count` elements along an axis."""
        bounds = (np.array([number], np.int64) for number in (0, count, axis))
        return self.op("Slice", value, *bounds)
