"""Ids as `robe ingest` writes them, from raw ones; and what of that a model leaves to others."""

from collections.abc import Mapping
from itertools import accumulate
from typing import Any

import numpy as np

from data_tools.vocabulary.id_map import IdMap
from robe_numba.onnx.graph import Graph
from robe_numba.onnx.known_ids import known_rows, row_type


def prepared_ids(
    graph: Graph, ids: str, facts: Mapping[str, Any], vocabulary: IdMap | None = None
) -> str:
    """Prepared ids, uint64 (batch, num_tables).

    Parameters
    ----------
    ids : int64 (batch, num_tables)
        Raw ids; those of the dataset if it maps them by a vocabulary that is not given here.
    facts : mapping
        "dataset" of a run's config.json.
    vocabulary : IdMap, optional
        That of the dataset.
    """
    words, modulus = graph.cast(ids, np.uint64), facts.get("max_ind_range")
    if is_mapped(facts) and vocabulary is None:
        return words
    if modulus is not None:
        words = graph.op("Mod", words, np.uint64(modulus))
    return words if vocabulary is None else _mapped(graph, words, vocabulary)


def _mapped(graph: Graph, ids: str, vocabulary: IdMap) -> str:
    """What ids become: that of a known id, or that of all unknown ids of its table."""
    columns = [vocabulary.known(number) for number in range(vocabulary.num_columns)]
    sizes = [len(known) for known, _ in columns]
    known = np.concatenate([known for known, _ in columns]).astype(np.uint64)
    offsets = np.array([0, *accumulate(sizes)])
    index = row_type(len(known))
    rows = known_rows(graph, ids, known, offsets, index, "vocabulary")
    firsts = offsets[:-1] + np.arange(len(sizes))  # each table has an element for unknown ids
    places = graph.op("Add", rows, firsts.astype(index))
    becomes = [
        part
        for (_, values), rare in zip(columns, vocabulary.rare_ids, strict=True)
        for part in (np.array([rare], vocabulary.dtype), values.astype(vocabulary.dtype))
    ]
    table = graph.constant(np.concatenate(becomes), "vocabulary.becomes")
    return graph.cast(graph.elements(table, places, -1, len(sizes)), np.uint64)


def is_mapped(facts: Mapping[str, Any]) -> bool:
    """Whether the dataset maps ids by a vocabulary."""
    return bool(facts.get("vocabulary"))


def what_is_outside(facts: Mapping[str, Any], vocabulary: IdMap | None = None) -> list[str]:
    """What has to be done before a model, in sentences; arguments are those of `prepared_ids`."""
    if facts["index_dtype"] == "uint32":
        sentences = ["Hexadecimal ids of Criteo's text are given as numbers, and missing ids as 0."]
    else:
        sentences = [
            "Ids that are texts are given as their BLAKE2b hash with a digest of 8 bytes, "
            "little-endian, as data_tools.text_ids makes them, and missing ids as 0."
        ]
    if is_mapped(facts) and vocabulary is None:
        reduced = facts.get("max_ind_range")
        first = f"reduced modulo {reduced}, then " if reduced else ""
        sentences.append(
            f"Ids are {first}mapped by the vocabulary of the dataset (ids {facts['ids']!r}, "
            f"min_count {facts['min_count']}), as robe ingest writes them."
        )
    return sentences
