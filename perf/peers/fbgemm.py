"""FBGEMM's table-batched embeddings, with the update fused into the backward pass."""

import numpy as np
import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    ComputeDevice,
    SplitTableBatchedEmbeddingBagsCodegen,
)

from perf.harness.checks import EPS, LR
from perf.harness.places import here
from perf.harness.shapes import BenchBatch
from perf.peers.tables import TablePeer

OPTIMIZERS = {"sgd": EmbOptimType.EXACT_SGD, "adagrad": EmbOptimType.EXACT_ADAGRAD}


class FbgemmTables(TablePeer):
    """All tables in one operator."""

    def __init__(self, batch: BenchBatch, optimizer: str | None, weighted: bool):
        super().__init__(batch, optimizer, weighted)
        shape = batch.shape
        where = EmbeddingLocation.HOST, ComputeDevice.CPU
        if here().device == "cuda":
            where = EmbeddingLocation.DEVICE, ComputeDevice.CUDA
        table = (shape.rows, shape.embedding_dim, *where)
        self._tables = SplitTableBatchedEmbeddingBagsCodegen(
            [table] * shape.num_tables,
            optimizer=OPTIMIZERS[optimizer or "sgd"],
            learning_rate=LR,
            eps=EPS,
            device=torch.device(here().torch_device),
        )
        self._tables.init_embedding_weights_uniform(-1.0, 1.0)
        tensor = here().tensor
        self._input = [tensor(batch.flat), tensor(batch.offsets)]
        if weighted:
            self._input.append(tensor(batch.weights))
        self._grad = tensor(batch.grad_out.reshape(shape.batch, -1))

    def forward(self) -> torch.Tensor:
        """All tables in one operator, without autograd."""
        with torch.no_grad():
            return self._tables(*self._input)

    def step(self) -> None:
        """Forward and backward; the operator updates in its backward pass."""
        self._tables(*self._input).backward(self._grad)

    def rows(self, table: int, ids: np.ndarray) -> np.ndarray:
        """Copied from the table's part of all weights."""
        weights = self._tables.split_embedding_weights()[table].detach()
        return weights[here().tensor(ids)].cpu().numpy()
