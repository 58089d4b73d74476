"""A small log with lists of ids, on all of which clicks depend."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_tools import Dataset, ingest
from data_tools.schema import Schema

WEIGHTED = Schema(
    "click", ("price",), ("site",), ("genres", "seen"), weights=(None, "seen_weights")
)
PLAIN = Schema("click", ("price",), ("site",), ("genres", "seen"))
ROWS = 1500


def ragged(generator, most, ids):
    """A list of each row, of 0 to `most` ids."""
    lengths = generator.integers(0, most + 1, ROWS)
    return [generator.integers(0, ids, length).tolist() for length in lengths]


def planted():
    """The generator after the lists, both columns of lists, and the chance of each row's click.

    The logit of a click is the sum of the effects of its genres.
    """
    generator = np.random.default_rng(0)
    genres, seen = ragged(generator, 4, 30), ragged(generator, 6, 200)
    effects = generator.normal(size=30)
    logits = np.array([effects[row].sum() for row in genres])
    return generator, genres, seen, 1 / (1 + np.exp(-logits))


def click_chances():
    """The chance of a click in each row, (ROWS,)."""
    return planted()[-1]


def columns():
    """Columns of the log."""
    generator, genres, seen, chances = planted()
    return {
        "click": (generator.random(ROWS) < chances).astype(np.int64),
        "price": generator.normal(size=ROWS),
        "site": generator.integers(0, 9, ROWS),
        "genres": genres,
        "seen": seen,
        "seen_weights": [generator.random(len(row)).tolist() for row in seen],
    }


def make_dataset(folder, schema=WEIGHTED, **options):
    """Write the log as Parquet and ingest it."""
    path = folder / "lists.parquet"
    table = pa.table({n: c for n, c in columns().items() if n in schema.names})
    pq.write_table(table, path, row_group_size=400)
    name = "weighted" if schema.weights else "plain"
    options = {"dense_transform": "none", "shard_bytes": 20_000} | options
    ingest(path, folder / name, schema=schema, **options)
    return Dataset(folder / name)
