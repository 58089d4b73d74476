"""The four kinds of embedding: robe, full, hashed and qr.

- `robe`: blocks of one shared array, placed by hashing; any number of weights.
- `full`: an uncompressed table with a row for each known id; the baseline.
- `hashed`: a whole row of one shared pool, chosen by hashing.
- `qr`: the elementwise product of two rows, one for the quotient and one for the remainder of the
  row number (Shi et al., Compositional Embeddings Using Complementary Partitions, KDD 2020).
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from robe_numba.checks.arrays import StoredArray, check_stored_array
from robe_numba.dlrm.backends import backend_for
from robe_numba.dlrm.bags import Bags, modes_of
from robe_numba.dlrm.embeddings.base import Embedding
from robe_numba.dlrm.embeddings.product_pool import ProductPool, tables_of
from robe_numba.dlrm.embeddings.read_array import Read, ReadArray
from robe_numba.dlrm.embeddings.trained_array import TrainedArray
from robe_numba.dlrm.embeddings.vocabulary import Vocabulary
from robe_numba.ops import lookup_dot_interaction
from robe_numba.spec import RobeSpec, Spec, TableSpec


class ArrayEmbedding(Embedding):
    """robe, hashed and full: rows are read from one array, those of `full` by row number."""

    names = ("array",)

    def lookup(
        self, indices: np.ndarray | Bags, keep: bool = True, out: np.ndarray | None = None
    ) -> tuple[np.ndarray, Any]:
        return self._parts["array"].lookup(self.rows(indices), keep, out)

    def context(self, indices: np.ndarray | Bags) -> Any:
        """The context of `lookup`, without looking anything up."""
        return Read(self.rows(indices), None, self._parts["array"].spec)

    def lookup_dot_interaction(
        self, indices: np.ndarray, dense: np.ndarray, out: np.ndarray | None = None
    ) -> np.ndarray:
        """Fused: the embeddings are never written to memory."""
        part = self._parts["array"]
        return lookup_dot_interaction(part.array, self.rows(indices), dense, part.spec, out)

    @property
    def source(self) -> tuple[StoredArray, Spec]:
        """The array as kernels take it, and how rows are read from it."""
        part = self._parts["array"]
        return check_stored_array(part.array, part.spec), part.spec

    def _gradients_by_part(
        self, grad_out: np.ndarray, context: Any
    ) -> dict[str, tuple[np.ndarray, Read]]:
        self._check_grad(grad_out, context.rows)
        return {"array": (grad_out, context)}


class QuotientRemainderEmbedding(Embedding):
    """qr: row x of table t is quotient row x // K_t times remainder row x % K_t, elementwise.

    Of bags, the products are pooled.
    """

    names = ("quotient", "remainder")

    def __init__(
        self,
        kind: str,
        parts: Mapping[str, ReadArray],
        vocabulary: Vocabulary | None,
        pooling: Sequence[str] = (),
    ):
        super().__init__(kind, parts, vocabulary, pooling)
        put = backend_for(self.device).asarray
        sizes = [np.array(parts[name].spec.num_embeddings, np.int64) for name in self.names]
        self._sizes = put(sizes[1])  # K of each table
        # To read rows of any table, all tables of a part are one.
        self._firsts = [put(np.cumsum(rows) - rows) for rows in sizes]
        self._whole = [TableSpec((int(rows.sum()),), self.embedding_dim) for rows in sizes]
        modes = np.array(modes_of(self.num_tables, self.pooling))
        self._pooled_by = {str(mode): put(modes == mode) for mode in np.unique(modes)}

    def lookup(
        self, indices: np.ndarray | Bags, keep: bool = True, out: np.ndarray | None = None
    ) -> tuple[np.ndarray, Any]:
        rows = self.rows(indices)
        if isinstance(rows, Bags):
            return self._lookup_bags(rows, keep, out)
        quotient, remainder = (self._parts[name] for name in self.names)
        factors, high_read = quotient.lookup(rows // self._sizes, keep)
        lows, low_read = remainder.lookup(rows % self._sizes, keep)
        reads = (factors, high_read, lows, low_read)
        return np.multiply(factors, lows, out=out), (rows, reads, None)

    def _lookup_bags(
        self, bags: Bags, keep: bool, out: np.ndarray | None
    ) -> tuple[np.ndarray, Any]:
        tables = tables_of(bags)
        sizes = self._sizes[tables]
        reads: list[Any] = []
        for number, rows in enumerate((bags.values // sizes, bags.values % sizes)):
            part, places = self._parts[self.names[number]], rows + self._firsts[number][tables]
            reads += part.lookup(places[:, None], keep, spec=self._whole[number])
        factors, lows = reads[0][:, 0], reads[2][:, 0]
        products = ProductPool(bags, tables, self._pooled_by, factors, lows)
        return products.pool(out), (bags, reads, products)

    def _gradients_by_part(
        self, grad_out: np.ndarray, context: Any
    ) -> dict[str, tuple[np.ndarray, Read]]:
        rows, (factors, high_read, lows, low_read), products = context
        self._check_grad(grad_out, rows)
        if products is not None:
            grad_out = products.gradient(grad_out)[:, None]
        return {
            "quotient": (grad_out * lows, high_read),
            "remainder": (grad_out * factors, low_read),
        }


KINDS: dict[str, type[Embedding]] = {
    "robe": ArrayEmbedding,
    "full": ArrayEmbedding,
    "hashed": ArrayEmbedding,
    "qr": QuotientRemainderEmbedding,
}
NUMBERED = ("full", "qr")  # the kinds that number known ids and so need a vocabulary
_SPECS: dict[str, type[RobeSpec] | type[TableSpec]] = {
    spec.kind: spec for spec in (RobeSpec, TableSpec)
}


def check_kind(kind: str) -> None:
    """Raise ValueError unless a kind is known."""
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; choose one of {', '.join(KINDS)}")


def specs_from(kind: str, specs: Mapping[str, Any]) -> dict[str, Spec]:
    """Specs of a kind's arrays, from "specs" of what `Embedding.describe` returned.

    Parameters
    ----------
    kind : str
        A name of `KINDS`.
    specs : mapping of str to dict
        By name of the array, also after a trip through JSON.

    Returns
    -------
    dict of str to Spec

    Raises
    ------
    TypeError, ValueError
        The kind is unknown, or a spec is missing or not valid.
    """
    check_kind(kind)
    names = KINDS[kind].names
    if set(specs) != set(names):
        raise ValueError(f"specs are {', '.join(specs)}; {kind} has {', '.join(names)}")
    wrong = [name for name in names if specs[name].get("kind") not in _SPECS]
    if wrong:
        raise ValueError(f"the kind of spec {wrong[0]!r} is none of {', '.join(_SPECS)}")
    return {n: _SPECS[specs[n]["kind"]].from_json(json.dumps(specs[n])) for n in names}


def embedding_from(description: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Embedding:
    """An embedding from what `describe()`, `parameters()`, `state()` and `tables()` returned.

    Parameters
    ----------
    description : mapping
        From `describe()`, also after a trip through JSON. Without "state_block" Adagrad has a sum
        for each element, and without "pooling" every feature has a single id.
    arrays : mapping of str to ndarray
        Used in place, not copied. Without optimizer state Adagrad's sums start at 0.

    Returns
    -------
    Embedding

    Raises
    ------
    KeyError
        The description or the arrays lack an entry.
    TypeError, ValueError
        An entry does not fit.
    """
    kind = description["kind"]
    parts = {}
    for name, spec in specs_from(kind, description["specs"]).items():
        optimizer = description["optimizer"], description["eps"]
        state_sum, state_block = arrays.get(f"{name}.state_sum"), description.get("state_block", 1)
        parts[name] = TrainedArray(spec, arrays[name], *optimizer, state_sum, state_block)
    vocabulary = Vocabulary.from_arrays(arrays) if kind in NUMBERED else None
    return KINDS[kind](kind, parts, vocabulary, description.get("pooling", ()))
