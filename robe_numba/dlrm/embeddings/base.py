"""What every kind of embedding can do."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np

from robe_numba.checks.bags import check_mode
from robe_numba.dlrm.backends import device_of
from robe_numba.dlrm.bags import Bags
from robe_numba.dlrm.embeddings.read_array import Read, ReadArray
from robe_numba.dlrm.embeddings.trained_array import TrainedArray
from robe_numba.dlrm.embeddings.vocabulary import Vocabulary
from robe_numba.dlrm.layers.interaction import dot_interaction
from robe_numba.ops.devices import check_any_device
from robe_numba.quantization.storages import check_storage


class Embedding(ABC):
    """Rows of d elements for the ids of several categorical features.

    Parameters
    ----------
    kind : str
        "robe", "full", "hashed" or "qr".
    parts : mapping of str to ReadArray
        The arrays by name; to be trained, each a TrainedArray.
    vocabulary : Vocabulary, optional
        The known ids, for the kinds that number them.
    pooling : sequence of str
        "sum", "mean" or "max" for each multi-hot feature, which are the last tables. With any, all
        methods take `Bags` where they take `indices`.

    Attributes
    ----------
    num_tables, embedding_dim : int
        T and d.
    pooling : tuple of str
        As given.
    dtype : dtype
        Of the embeddings: float32 or float64.
    device : str
        "cpu" or "cuda", where the arrays are that every method takes and returns.
    """

    names: ClassVar[tuple[str, ...]]  # of the arrays, in order

    def __init__(
        self,
        kind: str,
        parts: Mapping[str, ReadArray],
        vocabulary: Vocabulary | None,
        pooling: Sequence[str] = (),
    ):
        self.kind, self._parts, self._vocabulary = kind, parts, vocabulary
        self.pooling = tuple(pooling)
        for mode in self.pooling:
            check_mode(mode)
        first = parts[self.names[0]]
        self.num_tables: int = first.spec.num_tables
        self.embedding_dim: int = first.spec.embedding_dim
        self.dtype: np.dtype = first.dtype
        self.device: str = device_of(first.array)
        if len(self.pooling) > self.num_tables:
            raise ValueError(
                f"pooling has {len(self.pooling)} modes for {self.num_tables} tables; give one for "
                f"each multi-hot feature"
            )

    def to(self, device: str) -> Self:
        """The same embedding on a device; arrays that are there already are shared.

        Parameters
        ----------
        device : str
            "cpu" or "cuda".

        Returns
        -------
        Embedding

        Raises
        ------
        ValueError
            The device is unknown.
        ImportError, OSError
            "cuda" without CuPy and Numba's CUDA target, or without a GPU.
        """
        parts = {name: part.to(device) for name, part in self._parts.items()}
        known = None if self._vocabulary is None else self._vocabulary.to(device)
        return type(self)(self.kind, parts, known, self.pooling)

    def stored_as(self, storage: str) -> Self:
        """The same embedding in fewer bytes, for scoring alone.

        Parameters
        ----------
        storage : {"float32", "float16", "bfloat16", "int8"}
            As `robe_numba.quantization.storages.store` takes it.

        Returns
        -------
        Embedding
            On the CPU; one of float16 can be moved to a GPU. It shares nothing with this one but
            the known ids, and it is this one for float32.

        Raises
        ------
        TypeError
            This one is not float32, or not on the CPU.
        ValueError
            The storage is unknown, or a weight is one that it cannot hold.
        ModuleNotFoundError
            bfloat16 without ml_dtypes.
        """
        check_storage(storage)
        if self.device != "cpu":
            raise TypeError(f"the embedding is on a GPU; use to('cpu').stored_as({storage!r})")
        if storage == "float32" and self.dtype == np.float32:
            return self
        parts = {name: part.stored_as(storage) for name, part in self._parts.items()}
        return type(self)(self.kind, parts, self._vocabulary, self.pooling)

    def check_trainable(self) -> None:
        """Raise TypeError for an embedding of `stored_as`, which cannot learn."""
        self._trained()

    def _trained(self) -> dict[str, TrainedArray]:
        """The arrays of an embedding that can learn."""
        parts = {n: part for n, part in self._parts.items() if isinstance(part, TrainedArray)}
        if len(parts) < len(self._parts):
            raise TypeError(
                "the embedding is stored for scoring alone, so it cannot be trained or described; "
                "use the one that stored_as was called on"
            )
        return parts

    def rows(self, indices: np.ndarray | Bags) -> Any:
        """The ids, of either form, as row numbers of their tables; as they are if hashed."""
        if self._vocabulary is None:
            return indices
        if not isinstance(indices, Bags):
            return self._vocabulary.rows(indices)
        rows = self._vocabulary.bag_rows(indices.values, indices.offsets)
        return indices._replace(values=rows)

    @abstractmethod
    def lookup(
        self, indices: np.ndarray | Bags, keep: bool = True, out: np.ndarray | None = None
    ) -> tuple[np.ndarray, Any]:
        """Look up the embeddings of ids.

        Parameters
        ----------
        indices : ndarray, (batch, num_tables) int32, int64, uint32 or uint64; or Bags
            Raw ids, any value. Of bags, the embeddings are pooled.
        keep : bool
            Whether to keep what gradients need; without it the context cannot be used.
        out : ndarray, (batch, num_tables, d), optional
            Receives the embeddings and is returned.

        Returns
        -------
        out : ndarray, (batch, num_tables, d)
            The embeddings.
        context : object
            What `gradients` and `update` take, until the next update.

        Raises
        ------
        TypeError, ValueError
            Another shape or dtype.
        """

    def context(self, indices: np.ndarray | Bags) -> Any:
        """The context of `lookup`, for ids whose embeddings were looked up elsewhere."""
        return self.lookup(indices)[1]

    def lookup_dot_interaction(
        self, indices: np.ndarray, dense: np.ndarray, out: np.ndarray | None = None
    ) -> np.ndarray:
        """`dot_interaction` of dense (batch, d) and the embeddings of ids, for scoring.

        Other arguments, result and errors are those of `lookup` and `dot_interaction`.
        """
        embeddings, _ = self.lookup(indices, keep=False)
        return dot_interaction(dense, embeddings, out)[0]

    @abstractmethod
    def _gradients_by_part(
        self, grad_out: np.ndarray, context: Any
    ) -> dict[str, tuple[np.ndarray, Read]]:
        """For each part the gradient of what was read from it, and the read."""

    def _check_grad(self, grad_out: np.ndarray, rows: np.ndarray | Bags) -> None:
        """Require a gradient of this batch, before anything is written."""
        batch = rows.batch if isinstance(rows, Bags) else len(rows)
        shape = (batch, self.num_tables, self.embedding_dim)
        check_any_device("grad_out", grad_out, shape, (self.dtype,))

    def gradients(
        self,
        grad_out: np.ndarray,
        context: Any,
        outs: Mapping[str, np.ndarray] | None = None,
    ) -> dict[str, np.ndarray]:
        """Compute dense gradients by the names of `parameters()`.

        Parameters
        ----------
        grad_out : ndarray, (batch, num_tables, d)
            Gradient of the embeddings.
        context : object
            From the `lookup` of the batch.
        outs : mapping of str to ndarray, optional
            Arrays of these names, which receive the gradients and are returned.

        Returns
        -------
        dict of str to ndarray
            Shapes and dtype of `parameters()`.

        Raises
        ------
        TypeError, ValueError
            The gradient is not of this batch, or has another dtype.
        """
        outs, parts = outs or {}, self._trained()
        return {
            name: parts[name].gradient(grad, read, outs.get(name))
            for name, (grad, read) in self._gradients_by_part(grad_out, context).items()
        }

    def update(self, grad_out: np.ndarray, context: Any, lr: float) -> None:
        """Make one optimizer step in place; arguments as for `gradients`, and a learning rate."""
        parts = self._trained()
        for name, (grad, read) in self._gradients_by_part(grad_out, context).items():
            parts[name].update(grad, read, lr)

    def apply(self, gradients: Mapping[str, np.ndarray], lr: float) -> None:
        """Make one optimizer step in place, from dense gradients.

        Elements whose gradient is 0 do not change.

        Parameters
        ----------
        gradients : mapping of str to ndarray
            As `gradients` returns them.
        lr : float
            Learning rate.

        Raises
        ------
        KeyError, TypeError, ValueError
            A gradient is missing or does not fit.
        """
        for name, part in self._trained().items():
            part.apply(gradients[name], lr)

    def parameters(self) -> dict[str, np.ndarray]:
        """The weights by name, live; those of int8 are "<name>.values" and "<name>.scales"."""
        weights: dict[str, np.ndarray] = {}
        for name, part in self._parts.items():
            weights |= part.arrays(name)
        return weights

    def state(self) -> dict[str, np.ndarray]:
        """The optimizer's sums by "<name>.state_sum", live; empty for SGD."""
        return {
            f"{name}.state_sum": part.state_sum
            for name, part in self._parts.items()
            if part.state_sum is not None
        }

    def tables(self) -> dict[str, np.ndarray]:
        """The known ids as NumPy arrays, which do not change; empty for robe and hashed."""
        return {} if self._vocabulary is None else self._vocabulary.arrays()

    @property
    def num_bytes(self) -> int:
        """Bytes of the weights, without optimizer state and vocabulary."""
        return sum(array.nbytes for array in self.parameters().values())

    def describe(self) -> dict[str, Any]:
        """A description for JSON, from which `embedding_from` makes the embedding again."""
        parts = self._trained()
        first = parts[self.names[0]]
        pooling = {"pooling": list(self.pooling)} if self.pooling else {}
        return {
            "kind": self.kind,
            "specs": {name: json.loads(part.spec.to_json()) for name, part in parts.items()},
            "optimizer": first.optimizer,
            "eps": first.eps,
            "state_block": first.state_block,
            **pooling,
        }
