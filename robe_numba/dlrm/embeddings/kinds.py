"""Four kinds of embedding behind one interface: robe, full, hashed and qr.

- `robe`: blocks of one shared array, placed by hashing; any number of weights.
- `full`: a row of its own in an uncompressed table; the baseline.
- `hashed`: a whole row of one shared pool, chosen by hashing.
- `qr`: the elementwise product of two rows, one for the quotient and one for the remainder of the
  row number (Shi et al., Compositional Embeddings Using Complementary Partitions, KDD 2020).
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np

from robe_numba.dlrm.backends import backend_for, device_of
from robe_numba.dlrm.embeddings.trained_array import Read, TrainedArray
from robe_numba.dlrm.embeddings.vocabulary import Vocabulary
from robe_numba.dlrm.layers.interaction import dot_interaction
from robe_numba.ops import lookup_dot_interaction
from robe_numba.ops.devices import check_any_device
from robe_numba.spec import RobeSpec, Spec, TableSpec


class Embedding(ABC):
    """Rows of d elements for the ids of several categorical features.

    Parameters
    ----------
    kind : "robe", "full", "hashed" or "qr".
    parts : the trained arrays by name.
    vocabulary : the known ids, for the kinds that number them.

    Attributes
    ----------
    num_tables, embedding_dim, dtype
    device : "cpu" or "cuda"; the arrays that every method takes and gives are there.
    """

    names: ClassVar[tuple[str, ...]]  # the trained arrays, in order

    def __init__(self, kind: str, parts: dict[str, TrainedArray], vocabulary: Vocabulary | None):
        self.kind, self._parts, self._vocabulary = kind, parts, vocabulary
        first = parts[self.names[0]]
        self.num_tables: int = first.spec.num_tables
        self.embedding_dim: int = first.spec.embedding_dim
        self.dtype: np.dtype = first.array.dtype
        self.device: str = device_of(first.array)

    def to(self, device: str) -> Self:
        """The same embedding on a device; arrays that are there are shared.

        Parameters
        ----------
        device : "cpu" or "cuda".

        Raises
        ------
        ValueError : no such device.
        ImportError, OSError : "cuda" without what it needs, or without a GPU.
        """
        parts = {name: part.to(device) for name, part in self._parts.items()}
        known = None if self._vocabulary is None else self._vocabulary.to(device)
        return type(self)(self.kind, parts, known)

    @abstractmethod
    def lookup(
        self, indices: np.ndarray, keep: bool = True, out: np.ndarray | None = None
    ) -> tuple[np.ndarray, Any]:
        """The embeddings of ids, and what the gradients of this batch will need.

        Parameters
        ----------
        indices : int32, int64, uint32 or uint64 (batch, num_tables); raw ids, any value
        keep : whether gradients follow; without them the context is no use.
        out : `self.dtype` (batch, num_tables, d), filled in and returned; None allocates it.

        Returns
        -------
        out : `self.dtype` (batch, num_tables, d)
        context : to be passed to `gradients` or `update` before the next update

        Raises
        ------
        TypeError, ValueError : another shape or dtype.
        """

    def context(self, indices: np.ndarray) -> Any:
        """What the gradients of a batch need, where others looked its embeddings up.

        Arguments and errors are those of `lookup`, result as its context.
        """
        return self.lookup(indices)[1]

    @abstractmethod
    def _gradients_by_part(
        self, grad_out: np.ndarray, context: Any
    ) -> dict[str, tuple[np.ndarray, Read]]:
        """For each part the gradient of what was read from it, and the read."""

    def lookup_dot_interaction(
        self, indices: np.ndarray, dense: np.ndarray, out: np.ndarray | None = None
    ) -> np.ndarray:
        """`dot_interaction` of dense (batch, d) and the embeddings of ids, for scoring.

        Other arguments, result and errors are those of `lookup` and `dot_interaction`.
        """
        embeddings, _ = self.lookup(indices, keep=False)
        return dot_interaction(dense, embeddings, out)[0]

    def _check_grad(self, grad_out: np.ndarray, rows: np.ndarray) -> None:
        """Before anything is written: the gradient is that of this batch."""
        shape = (*rows.shape, self.embedding_dim)
        check_any_device("grad_out", grad_out, shape, (self.dtype,))

    def gradients(
        self,
        grad_out: np.ndarray,
        context: Any,
        outs: Mapping[str, np.ndarray] | None = None,
    ) -> dict[str, np.ndarray]:
        """Dense gradients by the names of `parameters()`.

        Parameters
        ----------
        grad_out : `self.dtype` (batch, num_tables, d)
        context : from the `lookup` of the batch
        outs : arrays of these names, filled in and returned; None allocates them.

        Raises
        ------
        TypeError, ValueError : the gradient is not of this batch, or another dtype.
        """
        outs = outs or {}
        return {
            name: self._parts[name].gradient(grad, read, outs.get(name))
            for name, (grad, read) in self._gradients_by_part(grad_out, context).items()
        }

    def update(self, grad_out: np.ndarray, context: Any, lr: float) -> None:
        """One optimizer step in place; arguments as `gradients`, `lr` the learning rate."""
        for name, (grad, read) in self._gradients_by_part(grad_out, context).items():
            self._parts[name].update(grad, read, lr)

    def apply(self, gradients: Mapping[str, np.ndarray], lr: float) -> None:
        """One optimizer step in place, given dense gradients as `gradients` gives them.

        Elements whose gradient is 0 do not move.

        Raises
        ------
        KeyError, TypeError, ValueError : a gradient is missing or does not fit.
        """
        for name, part in self._parts.items():
            part.apply(gradients[name], lr)

    def parameters(self) -> dict[str, np.ndarray]:
        """The weights by name, live."""
        return {name: part.array for name, part in self._parts.items()}

    def state(self) -> dict[str, np.ndarray]:
        """The optimizer's sums by "<name>.state_sum", live; empty for SGD."""
        return {
            f"{name}.state_sum": part.state_sum
            for name, part in self._parts.items()
            if part.state_sum is not None
        }

    def tables(self) -> dict[str, np.ndarray]:
        """The known ids as NumPy arrays, which training leaves; none for robe and hashed."""
        return {} if self._vocabulary is None else self._vocabulary.arrays()

    @property
    def num_bytes(self) -> int:
        """Bytes of the weights, without optimizer state and vocabulary."""
        return sum(array.nbytes for array in self.parameters().values())

    def describe(self) -> dict[str, Any]:
        """What JSON can hold; with the arrays it makes the embedding again."""
        first = self._parts[self.names[0]]
        return {
            "kind": self.kind,
            "specs": {name: json.loads(part.spec.to_json()) for name, part in self._parts.items()},
            "optimizer": first.optimizer,
            "eps": first.eps,
            "state_block": first.state_block,
        }


class ArrayEmbedding(Embedding):
    """robe, hashed and full: rows are read from one array, `full` by row number."""

    names = ("array",)

    def lookup(
        self, indices: np.ndarray, keep: bool = True, out: np.ndarray | None = None
    ) -> tuple[np.ndarray, Any]:
        """See `Embedding.lookup`."""
        return self._parts["array"].lookup(self._rows(indices), keep, out)

    def context(self, indices: np.ndarray) -> Any:
        """See `Embedding.context`; nothing is looked up."""
        return Read(self._rows(indices), None)

    def lookup_dot_interaction(
        self, indices: np.ndarray, dense: np.ndarray, out: np.ndarray | None = None
    ) -> np.ndarray:
        """See `Embedding.lookup_dot_interaction`; the embeddings are never in memory."""
        part = self._parts["array"]
        return lookup_dot_interaction(part.array, self._rows(indices), dense, part.spec, out)

    def _rows(self, indices: np.ndarray) -> np.ndarray:
        return indices if self._vocabulary is None else self._vocabulary.rows(indices)

    def _gradients_by_part(
        self, grad_out: np.ndarray, context: Any
    ) -> dict[str, tuple[np.ndarray, Read]]:
        self._check_grad(grad_out, context.rows)
        return {"array": (grad_out, context)}


class QuotientRemainderEmbedding(Embedding):
    """qr: row x of table t is quotient row x // K_t times remainder row x % K_t, elementwise."""

    names = ("quotient", "remainder")

    def __init__(self, kind: str, parts: dict[str, TrainedArray], vocabulary: Vocabulary | None):
        super().__init__(kind, parts, vocabulary)
        sizes = np.array(parts["remainder"].spec.num_embeddings, dtype=np.int64)
        self._sizes = backend_for(self.device).asarray(sizes)  # K of each table, where rows are

    def lookup(
        self, indices: np.ndarray, keep: bool = True, out: np.ndarray | None = None
    ) -> tuple[np.ndarray, Any]:
        """See `Embedding.lookup`."""
        assert self._vocabulary is not None
        quotient, remainder = (self._parts[name] for name in self.names)
        rows = self._vocabulary.rows(indices)
        high, low = rows // self._sizes, rows % self._sizes
        factors, high_read = quotient.lookup(high, keep)
        rows, low_read = remainder.lookup(low, keep)
        return np.multiply(factors, rows, out=out), (factors, high_read, rows, low_read)

    def _gradients_by_part(
        self, grad_out: np.ndarray, context: Any
    ) -> dict[str, tuple[np.ndarray, Read]]:
        factors, high_read, rows, low_read = context
        self._check_grad(grad_out, high_read.rows)
        return {
            "quotient": (grad_out * rows, high_read),
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
    """Require a known kind; ValueError otherwise."""
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; choose one of {', '.join(KINDS)}")


def specs_from(kind: str, specs: Mapping[str, Any]) -> dict[str, Spec]:
    """How the arrays of a kind are read, from "specs" of what `Embedding.describe` gave.

    Raises
    ------
    TypeError, ValueError : the kind is unknown, or a spec is missing or not valid.
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
    """An embedding from what `describe()`, `parameters()`, `state()` and `tables()` gave.

    Parameters
    ----------
    description : from `describe()`, also after a trip through JSON. Without "state_block" Adagrad
        has a sum for each element.
    arrays : by name; used in place, not copied. Without optimizer state Adagrad starts at 0.

    Raises
    ------
    KeyError : the description or the arrays lack an entry.
    TypeError, ValueError : an entry does not fit.
    """
    kind = description["kind"]
    parts = {}
    for name, spec in specs_from(kind, description["specs"]).items():
        optimizer = description["optimizer"], description["eps"]
        state_sum, state_block = arrays.get(f"{name}.state_sum"), description.get("state_block", 1)
        parts[name] = TrainedArray(spec, arrays[name], *optimizer, state_sum, state_block)
    vocabulary = Vocabulary.from_arrays(arrays) if kind in NUMBERED else None
    return KINDS[kind](kind, parts, vocabulary)
