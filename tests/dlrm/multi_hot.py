"""Small models with lists of ids, ragged batches, and what their embeddings are by the oracle."""

import numpy as np

from robe_numba.dlrm import DLRM, DLRMConfig, make_embedding
from tests.support import naive

# Of features with a single id first, then of lists.
VOCABULARY = [np.arange(7), np.arange(3), np.arange(20), np.array([0, 2, 5, 2**32 - 1])]
POOLINGS = {
    "mixed": ("sum", "mean", "max"),
    "weighted": ("sum", "mean"),
    "lists alone": ("mean", "max", "sum", "sum"),
    "sum": ("sum", "sum"),
    "mean": ("mean",) * 4,
    "max": ("max", "max"),
}


def config_of(pooling, num_tables=4, **fields):
    shape = {"num_dense": 3, "embedding_dim": 4, "bottom": (5,), "top": (6,)} | fields
    return DLRMConfig(num_tables=num_tables, pooling=pooling, **shape)


def embedding_of(kind, pooling=(), num_tables=4, dtype=np.float32, **options):
    defaults = {"num_parameters": 110, "block_size": 3, "sign": kind == "robe"}
    return make_embedding(
        kind,
        embedding_dim=4,
        num_tables=num_tables,
        vocabulary=VOCABULARY[:num_tables],
        dtype=dtype,
        seed=3,
        scale=0.5,
        pooling=pooling,
        **(defaults | options),
    )


def model_of(kind, pooling, dtype=np.float32, optimizer="sgd", embedding=(), **options):
    config = config_of(pooling)
    parts = embedding_of(kind, pooling, dtype=dtype, optimizer=optimizer, **dict(embedding))
    return DLRM(config, parts, dtype=dtype, optimizer=optimizer, **options)


def lists_of(rows, num_features, weighted=(), lengths=None, seed=0):
    """(values, offsets, weights): some bags are empty, and ids occur twice in a bag."""
    generator = np.random.default_rng(seed)
    if lengths is None:
        lengths = generator.integers(0, 5, num_features * rows)
        lengths[generator.random(len(lengths)) < 0.3] = 0
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    values = generator.integers(0, 25, offsets[-1], dtype=np.uint32)
    values[1::3] = values[: len(values[1::3])]
    if not weighted:
        return values, offsets, None
    weights = np.ones(len(values), np.float32)
    for feature in weighted:
        own = slice(offsets[feature * rows], offsets[(feature + 1) * rows])
        weights[own] = generator.normal(size=own.stop - own.start)
        weights[own][::4] = 0
    return values, offsets, weights


def batch_of(rows, pooling, dtype=np.float32, seed=0, weighted=(), lengths=None):
    """(dense, indices, labels, multi_hot) for four features."""
    generator = np.random.default_rng(seed)
    dense = generator.normal(size=(rows, 3)).astype(dtype)
    indices = generator.integers(0, 25, (rows, 4 - len(pooling)), dtype=np.uint32)
    labels = generator.integers(0, 2, rows).astype(dtype)
    return dense, indices, labels, lists_of(rows, len(pooling), weighted, lengths, seed)


def rows_of(multi_hot, num_features, first, last):
    """The lists of consecutive rows, one list at a time."""
    values, offsets, weights = multi_hot
    batch = (len(offsets) - 1) // num_features
    bags = [
        range(offsets[t * batch + b], offsets[t * batch + b + 1])
        for t in range(num_features)
        for b in range(first, last)
    ]
    positions = np.array([i for bag in bags for i in bag], np.int64)
    ends = np.cumsum([0, *map(len, bags)])
    return values[positions], ends, None if weights is None else weights[positions]


def bags_of(indices, multi_hot, pooling):
    """Per feature and row: the ids and their weights, in lists of Python."""
    values, offsets, weights = multi_hot
    rows, singles = indices.shape
    bags = [[([int(indices[b, t])], [1.0]) for b in range(rows)] for t in range(singles)]
    for t in range(len(pooling)):
        bags.append([])
        for b in range(rows):
            own = slice(offsets[t * rows + b], offsets[t * rows + b + 1])
            ids = [int(x) for x in values[own]]
            factors = [1.0] * len(ids) if weights is None else [float(w) for w in weights[own]]
            bags[-1].append((ids, factors))
    return bags


class Oracle:
    """Rows of an embedding from its description and arrays alone, in float64."""

    def __init__(self, embedding, arrays=None):
        found = embedding.parameters() if arrays is None else arrays
        self.arrays = {name: np.asarray(a, np.float64) for name, a in found.items()}
        self.kind, self.dim, self._rows = embedding.kind, embedding.embedding_dim, {}
        self.specs = {name: part.spec for name, part in embedding._parts.items()}

    def row(self, table, x):
        if (table, x) not in self._rows:
            self._rows[table, x] = self._read(table, x)
        return self._rows[table, x]

    def _read(self, table, x):
        if self.kind in ("robe", "hashed"):
            return naive.row(self.arrays["array"], self.specs["array"], table, x)
        number = {int(y): row for row, y in enumerate(VOCABULARY[table], 1)}.get(x, 0)
        if self.kind == "full":
            return self._part("array", table, number)
        size = self.specs["remainder"].num_embeddings[table]
        quotient = self._part("quotient", table, number // size)
        return quotient * self._part("remainder", table, number % size)

    def _part(self, name, table, number):
        first = sum(self.specs[name].num_embeddings[:table])
        return self.arrays[name].reshape(-1, self.dim)[first + number]

    def embeddings(self, indices, multi_hot, pooling):
        """Pooled (batch, num_tables, d), and the sums of absolute summands."""
        bags = bags_of(indices, multi_hot, pooling)
        modes = ("sum",) * indices.shape[1] + tuple(pooling)
        out, sizes = (np.zeros((len(indices), len(bags), self.dim)) for _ in range(2))
        for t, b in np.ndindex(len(bags), len(indices)):
            ids, weights = bags[t][b]
            if not ids:
                continue
            rows = np.array([w * self.row(t, x) for x, w in zip(ids, weights, strict=True)])
            pooled = {"sum": rows.sum(0), "mean": rows.sum(0) / len(ids), "max": rows.max(0)}
            out[b, t], sizes[b, t] = pooled[modes[t]], np.abs(rows).sum(0)
        return out, sizes
