"""The DLRM in torch after `robe_numba.torch.compress`."""

from typing import Any

import numpy as np
import torch

import robe_numba as rn
import robe_numba.torch as rt
from perf.harness.checks import EPS, LR
from perf.harness.shapes import BenchBatch
from perf.peers.dlrm import TorchDLRM
from perf.peers.tables import make_optimizer
from robe_numba.dlrm import DLRMConfig


def fused(name: str) -> Any:
    """FusedSGD or FusedAdagrad with the learning rate of the checks."""
    return rt.FusedSGD(LR) if name == "sgd" else rt.FusedAdagrad(LR, EPS)


class CompressedDLRM(TorchDLRM):
    """`TorchDLRM` whose EmbeddingBags, one per table, all read one array of the shape's size."""

    def __init__(
        self,
        config: DLRMConfig,
        batch: BenchBatch,
        dense: np.ndarray,
        labels: np.ndarray,
        optimizer: str,
    ):
        super().__init__(config, batch, dense, labels, apart=True)
        shape = batch.shape
        compression = shape.rows * shape.num_tables * shape.embedding_dim / shape.array_size
        rt.compress(self, compression, min_rows=1, optimizer=fused(optimizer))
        self._optimizer = make_optimizer(optimizer, self.parameters())

    def rows(self, bag: Any, ids: torch.Tensor) -> torch.Tensor:
        array = bag.array.weight.detach().numpy()
        return torch.from_numpy(rn.lookup(array, ids[:, None].numpy(), bag.spec))
