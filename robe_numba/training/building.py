"""From settings and a dataset to a model: how large the tables are, and how large ours may be."""

from dataclasses import replace

import numpy as np

from data_tools import Dataset
from robe_numba.dlrm import DLRM, PRESETS, DLRMConfig, make_embedding
from robe_numba.training.config import TrainingConfig


def training_vocabulary(dataset: Dataset, config: TrainingConfig) -> list[np.ndarray]:
    """The distinct ids of each table among the training rows, sorted."""
    split = dataset.split("train", config.fractions, config.split_by, config.seed)
    return [split.unique_ids(column) for column in range(dataset.schema.num_categorical)]


def table_rows(vocabulary: list[np.ndarray]) -> int:
    """Rows of all uncompressed tables: one per known id, and one per table for unknown ids."""
    return sum(ids.size + 1 for ids in vocabulary)


def model_config(dataset: Dataset, config: TrainingConfig) -> DLRMConfig:
    """The preset's shape with the dataset's columns and the chosen d."""
    config = config.resolved()
    assert config.embedding_dim is not None
    return replace(
        PRESETS[config.preset].config,
        num_dense=dataset.schema.num_dense,
        num_tables=dataset.schema.num_categorical,
        embedding_dim=config.embedding_dim,
    )


def _id_ranges(dataset: Dataset) -> list[int]:
    """The ids that each table may hold, which hash "uma" numbers one table after the other."""
    if dataset.manifest.index_dtype != "uint32":
        raise ValueError(
            f"hash 'uma' numbers 32-bit ids, but the dataset's are "
            f"{dataset.manifest.index_dtype}; use hash 'multiply-shift'"
        )
    return [2**32] * dataset.schema.num_categorical


def build_model(
    dataset: Dataset,
    config: TrainingConfig,
    vocabulary: list[np.ndarray] | None = None,
    threads: int | None = None,
) -> DLRM:
    """A freshly initialised model for a dataset.

    Parameters
    ----------
    dataset : gives the columns and, unless `vocabulary` does, the ids of the training rows.
    config : settings of the run.
    vocabulary : what `training_vocabulary` gave, where the caller has it already.
    threads : of the dense part; None takes Numba's.

    Raises
    ------
    ValueError : the dataset has no categorical column, or the size is too small for the kind.
    """
    config = config.resolved()
    shape = model_config(dataset, config)
    dim = shape.embedding_dim
    numbered = config.embedding in ("full", "qr")  # kinds that number the known ids
    if vocabulary is None and (numbered or config.num_parameters is None):
        vocabulary = training_vocabulary(dataset, config)
    num_parameters = config.num_parameters
    if config.compression is not None:
        assert vocabulary is not None
        num_parameters = max(round(table_rows(vocabulary) * dim / config.compression), 1)
    scale = config.scale
    if scale is None and vocabulary is not None:
        scale = float(np.sqrt(1 / max(ids.size + 1 for ids in vocabulary)))
    if config.embedding == "robe" and config.block_size > num_parameters:  # type: ignore[operator]
        raise ValueError(
            f"block_size is {config.block_size} but only {num_parameters} elements are kept; "
            f"lower compression or block_size"
        )
    embedding = make_embedding(
        config.embedding,
        embedding_dim=dim,
        num_tables=shape.num_tables,
        num_parameters=num_parameters,
        vocabulary=vocabulary if numbered else None,
        num_embeddings=_id_ranges(dataset) if config.hash == "uma" else None,
        block_size=config.block_size or dim,
        hash=config.hash,
        seed=config.seed,
        sign=config.sign,
        alignment=config.alignment,
        optimizer=config.embedding_optimizer or "sgd",
        scale=scale,
    )
    return DLRM(
        shape,
        embedding,
        seed=config.seed,
        optimizer=config.optimizer or "sgd",
        threads=threads,
    )
