"""Build a model from settings and a dataset: count ids, and work out sizes."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from data_tools import Dataset
from robe_numba.dlrm import DLRM, PRESETS, DLRMConfig, make_embedding
from robe_numba.dlrm.embeddings.kinds import NUMBERED
from robe_numba.parallel.exchange import ListSizes
from robe_numba.parallel.group import Alone, Group
from robe_numba.training.config import ResolvedConfig, TrainingConfig
from robe_numba.training.pooling import pooling_of

# Default half-width of the embedding's initial values: so small that an id which was seen once or
# never hardly affects a score.
SCALE = 1e-3
Progress = Callable[[int, int], Any]  # done, in all


def training_vocabulary(
    dataset: Dataset,
    config: TrainingConfig,
    progress: Progress | None = None,
    group: Group | None = None,
) -> list[np.ndarray]:
    """The distinct ids of each feature among the training rows, sorted.

    Parameters
    ----------
    dataset : Dataset
        Gives the rows.
    config : TrainingConfig
        Gives the split.
    progress : callable, optional
        Called with (columns done, all columns).
    group : Group, optional
        Processes that divide the columns among them.

    Returns
    -------
    list of ndarray, (num_ids,) of the dataset's index dtype
        In the order of `Schema.features`: those with lists are last.
    """
    group = group or Alone()
    split = dataset.split("train", config.fractions, config.split_by, config.seed)
    num_columns = len(dataset.schema.features)
    vocabulary: list[np.ndarray] = []
    for first in range(0, num_columns, group.size):
        columns = range(first, min(first + group.size, num_columns))
        mine = first + group.rank
        ids = split.unique_ids(mine) if mine in columns else None
        vocabulary += [group.broadcast(ids, root=column - first) for column in columns]
        if progress:
            progress(columns.stop, num_columns)
    return vocabulary


def list_sizes(dataset: Dataset) -> ListSizes:
    """How many ids lists have, on average over the whole dataset."""
    return ListSizes(sum(dataset.ids_per_row), bool(dataset.schema.weights))


def needs_vocabulary(config: TrainingConfig) -> bool:
    """Whether the distinct ids must be counted to build the model."""
    counted = config.compression is not None and config.cardinalities is None
    return config.embedding in NUMBERED or counted


def table_rows(vocabulary: list[np.ndarray]) -> int:
    """Rows of all uncompressed tables: one per known id, and one per table for unknown ids."""
    return sum(ids.size + 1 for ids in vocabulary)


def model_config(dataset: Dataset, config: ResolvedConfig) -> DLRMConfig:
    """The preset's shape with the dataset's columns and the chosen widths.

    Raises
    ------
    ValueError
        The dataset has no categorical columns, or the pooling does not fit it.
    """
    if not dataset.schema.features:
        raise ValueError("the dataset has no categorical columns; there is nothing to embed")
    crossing: dict[str, Any] = {}
    if config.interaction == "dcn":
        crossing = {"cross_layers": config.cross_layers, "cross_rank": config.cross_rank}
    return replace(
        PRESETS[config.preset].config,
        num_dense=dataset.schema.num_dense,
        num_tables=len(dataset.schema.features),
        embedding_dim=config.embedding_dim,
        bottom=config.bottom,
        top=config.top,
        interaction=config.interaction,
        pooling=pooling_of(config.pooling, dataset.schema),
        **crossing,
    )


def _id_ranges(dataset: Dataset) -> list[int]:
    """The number of ids per table; hash "uma" numbers the ids of one table after the other."""
    if dataset.manifest.index_dtype != "uint32":
        raise ValueError(
            f"hash 'uma' numbers 32-bit ids, but the dataset's are "
            f"{dataset.manifest.index_dtype}; use hash 'multiply-shift'"
        )
    return [2**32] * len(dataset.schema.features)


def build_model(
    dataset: Dataset,
    config: TrainingConfig,
    vocabulary: list[np.ndarray] | None,
    threads: int | None = None,
) -> DLRM:
    """A new model for a dataset, on the device of the settings.

    Parameters
    ----------
    dataset : Dataset
        Gives the columns.
    config : TrainingConfig
        Settings of the run.
    vocabulary : list of ndarray, optional
        Result of `training_vocabulary`, if `needs_vocabulary`.
    threads : int, optional
        Threads of the dense part; None takes Numba's.

    Returns
    -------
    DLRM

    Raises
    ------
    ValueError
        The dataset has no categorical columns, or not as many as there are cardinalities; or the
        pooling does not fit it; or the size is too small for the kind of embedding.
    """
    config = config.resolved()
    shape = model_config(dataset, config)
    if config.cardinalities is not None and len(config.cardinalities) != shape.num_tables:
        raise ValueError(
            f"there are {len(config.cardinalities)} cardinalities, but the dataset has "
            f"{shape.num_tables} categorical columns; give one for each"
        )
    embedding = make_embedding(
        config.embedding,
        embedding_dim=shape.embedding_dim,
        num_tables=shape.num_tables,
        num_parameters=_num_parameters(config, vocabulary),
        vocabulary=vocabulary if config.embedding in NUMBERED else None,
        num_embeddings=_id_ranges(dataset) if config.hash == "uma" else None,
        block_size=config.block_size or shape.embedding_dim,
        hash=config.hash,
        seed=config.seed,
        sign=bool(config.sign),
        alignment=config.alignment,
        optimizer=config.embedding_optimizer,
        eps=config.embedding_eps,
        block_state=config.block_state,
        scale=SCALE if config.scale is None else config.scale,
        pooling=shape.pooling,
    )
    return DLRM(
        shape,
        embedding.to(config.device),
        seed=config.seed,
        optimizer=config.optimizer,
        threads=threads,
    )


def _num_parameters(config: ResolvedConfig, vocabulary: list[np.ndarray] | None) -> int | None:
    """Elements to keep, at least as many as the kind of embedding needs; None for "full"."""
    kept, whole, dim = config.num_parameters, "", config.embedding_dim
    if config.compression is not None:
        rows = sum(config.cardinalities or ()) or table_rows(vocabulary or [])
        kept = round(rows * dim / config.compression)
        whole = f" of the {rows * dim:,}"
    least = {"robe": config.block_size or dim, "hashed": dim}.get(config.embedding, 0)
    if kept is not None and kept < least:
        unit = "block_size" if config.embedding == "robe" else "embedding_dim"
        raise ValueError(
            f"{unit} is {least}, but only {kept}{whole} elements are kept; lower the compression"
        )
    return kept
