"""What a run notes of its dataset."""

from dataclasses import asdict
from typing import Any

from data_tools import Dataset

# Of the facts of a dataset those that a model's inputs depend on.
PREPARATION = (
    "dense",
    "categorical",
    "dense_transform",
    "max_ind_range",
    "ids",
    "min_count",
    "index_dtype",
    "vocabulary",
)


def dataset_facts(dataset: Dataset) -> dict[str, Any]:
    """What a model must find again in data that it scores, and where its own came from."""
    manifest = dataset.manifest
    return {
        "dense": list(dataset.schema.dense),
        "categorical": list(dataset.schema.categorical),
        **manifest.options.preparation(),
        "index_dtype": manifest.index_dtype,
        "vocabulary": [f"{file.crc32:08x}" for file in manifest.vocabulary],
        "rows": manifest.rows,
        "sources": [source.name for source in manifest.sources],
        "shards": [asdict(shard) for shard in manifest.shards],
    }
