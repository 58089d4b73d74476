"""ROBE: embedding tables of any size, read by hashing from one small shared array.

Source: Desai, Chou, Shrivastava, *Random Offset Block Embedding (ROBE) for compressed embedding
tables in deep learning recommendation systems*, MLSys 2022.
"""

from typing import TYPE_CHECKING

from robe_numba._environment import limit_spinning
from robe_numba._lazy import attributes

if TYPE_CHECKING:
    from robe_numba.ops import (
        adagrad_update,
        apply_gradient,
        block_starts,
        embedding_bag,
        embedding_bag_adagrad_update,
        embedding_bag_backward,
        embedding_bag_sgd_update,
        lookup,
        lookup_backward,
        lookup_dot_interaction,
        sgd_update,
    )
    from robe_numba.ops.arrays import init_array
    from robe_numba.quantization.quantized import QuantizedArray, quantize
    from robe_numba.spec import RobeSpec, TableSpec

limit_spinning()

__version__ = "0.1.0"

__all__ = [
    "QuantizedArray",
    "RobeSpec",
    "TableSpec",
    "adagrad_update",
    "apply_gradient",
    "block_starts",
    "embedding_bag",
    "embedding_bag_adagrad_update",
    "embedding_bag_backward",
    "embedding_bag_sgd_update",
    "init_array",
    "lookup",
    "lookup_backward",
    "lookup_dot_interaction",
    "quantize",
    "sgd_update",
]

_ELSEWHERE = {
    "QuantizedArray": "robe_numba.quantization.quantized",
    "RobeSpec": "robe_numba.spec",
    "TableSpec": "robe_numba.spec",
    "init_array": "robe_numba.ops.arrays",
    "quantize": "robe_numba.quantization.quantized",
}
__getattr__, __dir__ = attributes(__name__, dict.fromkeys(__all__, "robe_numba.ops") | _ELSEWHERE)
