"""The public functions: check, allocate, run."""

from robe_numba.ops.bags import (
    embedding_bag,
    embedding_bag_adagrad_update,
    embedding_bag_backward,
    embedding_bag_sgd_update,
)
from robe_numba.ops.dense import apply_gradient
from robe_numba.ops.interaction import lookup_dot_interaction
from robe_numba.ops.rows import (
    adagrad_update,
    block_starts,
    lookup,
    lookup_backward,
    sgd_update,
)

__all__ = [
    "adagrad_update",
    "apply_gradient",
    "block_starts",
    "embedding_bag",
    "embedding_bag_adagrad_update",
    "embedding_bag_backward",
    "embedding_bag_sgd_update",
    "lookup",
    "lookup_backward",
    "lookup_dot_interaction",
    "sgd_update",
]
