"""From settings and a dataset to a model: how large the tables are, and how large ours may be."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from data_tools import Dataset
from robe_numba.dlrm import DLRM, PRESETS, DLRMConfig, make_embedding
from robe_numba.training.config import TrainingConfig

Progress = Callable[[int, int], Any]  # done, in all


def training_vocabulary(
    dataset: Dataset, config: TrainingConfig, progress: Progress | None = None
) -> list[np.ndarray]:
    """The distinct ids of each table among the training rows, sorted.

    Parameters
    ----------
    progress : called with (columns done, columns in all).
    """
    split = dataset.split("train", config.fractions, config.split_by, config.seed)
    num_columns = dataset.schema.num_categorical
    vocabulary = []
    for column in range(num_columns):
        vocabulary.append(split.unique_ids(column))
        if progress:
            progress(column + 1, num_columns)
    return vocabulary


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
    vocabulary: list[np.ndarray],
    threads: int | None = None,
) -> DLRM:
    """A freshly initialised model for a dataset, on the device of the settings.

    Parameters
    ----------
    dataset : gives the columns.
    config : settings of the run.
    vocabulary : what `training_vocabulary` gave; sizes are counted from it.
    threads : of the dense part; None takes Numba's.

    Raises
    ------
    ValueError : the dataset has no categorical column, or the size is too small for the kind.
    """
    config = config.resolved()
    if not dataset.schema.categorical:
        raise ValueError("the dataset has no categorical column; there is nothing to embed")
    shape = model_config(dataset, config)
    num_parameters = _num_parameters(config, table_rows(vocabulary), shape.embedding_dim)
    largest = max(ids.size + 1 for ids in vocabulary)
    embedding = make_embedding(
        config.embedding,
        embedding_dim=shape.embedding_dim,
        num_tables=shape.num_tables,
        num_parameters=num_parameters,
        vocabulary=vocabulary if config.embedding in ("full", "qr") else None,
        num_embeddings=_id_ranges(dataset) if config.hash == "uma" else None,
        block_size=config.block_size or shape.embedding_dim,
        hash=config.hash,
        seed=config.seed,
        sign=config.sign,
        alignment=config.alignment,
        optimizer=config.embedding_optimizer or "sgd",
        scale=math.sqrt(1 / largest) if config.scale is None else config.scale,
    )
    return DLRM(
        shape,
        embedding.to(config.device),
        seed=config.seed,
        optimizer=config.optimizer or "sgd",
        threads=threads,
    )


def _num_parameters(config: TrainingConfig, rows: int, dim: int) -> int | None:
    """Elements to keep, enough for the smallest embedding of the kind; None for "full"."""
    kept = config.num_parameters
    if config.compression is not None:
        kept = round(rows * dim / config.compression)
    least = {"robe": config.block_size or dim, "hashed": dim}.get(config.embedding, 0)
    if kept is not None and kept < least:
        unit = "block_size" if config.embedding == "robe" else "embedding_dim"
        raise ValueError(
            f"{unit} is {least} but only {kept} of the {rows * dim:,} elements are kept; "
            f"lower the compression"
        )
    return kept
