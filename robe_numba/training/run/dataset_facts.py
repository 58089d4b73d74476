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
    # Of datasets with lists alone; earlier versions know none.
    "multi_hot",
    "weights",
    "max_length",
    "multi_hot_sizes",
    "multi_hot_seed",
)


def dataset_facts(dataset: Dataset) -> dict[str, Any]:
    """How a dataset was prepared, and where it came from."""
    manifest, schema = dataset.manifest, dataset.schema
    lists: dict[str, Any] = {}
    if schema.multi_hot:
        lists = {"multi_hot": list(schema.multi_hot), "ids_per_row": list(dataset.ids_per_row)}
    if schema.weights:
        lists["weights"] = list(schema.weights)
    if manifest.options.multi_hot_sizes is not None:  # what lists are drawn from
        known = manifest.vocabulary[: len(manifest.options.multi_hot_sizes)]
        lists["known_ids"] = [file.rows for file in known]
    options = manifest.options.preparation().items()
    return {
        "dense": list(schema.dense),
        "categorical": list(schema.categorical),
        **lists,
        **{name: list(v) if isinstance(v, tuple) else v for name, v in options},
        "index_dtype": manifest.index_dtype,
        "vocabulary": [f"{file.crc32:08x}" for file in manifest.vocabulary],
        "rows": manifest.rows,
        "sources": [source.name for source in manifest.sources],
        "shards": [asdict(shard) for shard in manifest.shards],
    }
