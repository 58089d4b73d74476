"""A deep learning recommendation model (DLRM) with backpropagation by hand.

Layers are functions that return their output and their backward; `DLRM` joins them, and trains
any of four kinds of embedding through one interface.
"""

from robe_numba.dlrm.backends import DEVICES
from robe_numba.dlrm.config import DLRMConfig
from robe_numba.dlrm.cuda_graphs import capture_logits, capture_train_step
from robe_numba.dlrm.embeddings.base import Embedding
from robe_numba.dlrm.embeddings.kinds import KINDS, embedding_from
from robe_numba.dlrm.embeddings.make_embedding import make_embedding
from robe_numba.dlrm.embeddings.vocabulary import Vocabulary
from robe_numba.dlrm.layers.cross import cross_network
from robe_numba.dlrm.layers.interaction import cat_interaction, dot_interaction
from robe_numba.dlrm.layers.linear import linear
from robe_numba.dlrm.layers.loss import bce_with_logits, sigmoid
from robe_numba.dlrm.layers.mlp import mlp
from robe_numba.dlrm.learning_rate import Schedule
from robe_numba.dlrm.model import DLRM
from robe_numba.dlrm.optimizers import OPTIMIZERS, DenseOptimizer
from robe_numba.dlrm.presets import PRESETS, Preset

__all__ = [
    "DEVICES",
    "DLRM",
    "KINDS",
    "OPTIMIZERS",
    "PRESETS",
    "DLRMConfig",
    "DenseOptimizer",
    "Embedding",
    "Preset",
    "Schedule",
    "Vocabulary",
    "bce_with_logits",
    "capture_logits",
    "capture_train_step",
    "cat_interaction",
    "cross_network",
    "dot_interaction",
    "embedding_from",
    "linear",
    "make_embedding",
    "mlp",
    "sigmoid",
]
