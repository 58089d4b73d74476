"""What a run records about its dataset."""

from dataclasses import asdict
from typing import Any

from data_tools import Dataset

# The facts that a model's inputs depend on.
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
    """How a dataset was prepared, and where it came from."""
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
