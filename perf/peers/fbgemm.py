"""FBGEMM's table-batched embeddings on the CPU, with the update fused into the backward pass."""

import numpy as np
import torch
from checks import EPS, LR
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    ComputeDevice,
    SplitTableBatchedEmbeddingBagsCodegen,
)
from shapes import Batch

from peers.tables import TablePeer

OPTIMIZERS = {"sgd": EmbOptimType.EXACT_SGD, "adagrad": EmbOptimType.EXACT_ADAGRAD}


class FbgemmTables(TablePeer):
    """All tables in one operator."""

    def __init__(self, batch: Batch, optimizer: str | None, weighted: bool):
        super().__init__(batch, optimizer, weighted)
        shape = batch.shape
        table = (shape.rows, shape.embedding_dim, EmbeddingLocation.HOST, ComputeDevice.CPU)
        self._tables = SplitTableBatchedEmbeddingBagsCodegen(
            [table] * shape.num_tables,
            optimizer=OPTIMIZERS[optimizer or "sgd"],
            learning_rate=LR,
            eps=EPS,
            device=torch.device("cpu"),
        )
        self._tables.init_embedding_weights_uniform(-1.0, 1.0)
        self._input = [torch.from_numpy(batch.flat), torch.from_numpy(batch.offsets)]
        if weighted:
            self._input.append(torch.from_numpy(batch.weights))
        self._grad = torch.from_numpy(batch.grad_out.reshape(shape.batch, -1))

    def forward(self) -> torch.Tensor:
        with torch.no_grad():
            return self._tables(*self._input)

    def step(self) -> None:
        self._tables(*self._input).backward(self._grad)

    def rows(self, table: int, ids: np.ndarray) -> np.ndarray:
        return self._tables.split_embedding_weights()[table].detach().numpy()[ids]
