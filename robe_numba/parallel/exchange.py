"""The two ways of an embedding's gradient from the rows of each process to the array of all.

Both leave the same bits in every process. `gather` grows with the batch, `reduce` with the array.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from robe_numba.dlrm.embeddings.base import Embedding
from robe_numba.parallel.carriers.base import Carrier, Done, Pending


class Exchange(ABC):
    """Takes the gradient of one batch after another to an embedding.

    Parameters
    ----------
    embedding : this process's, of the same bits in all.
    carrier : of the embedding's device.
    """

    name: ClassVar[str]
    computes_first: ClassVar[bool]  # before `send` sends, for which it needs the lookup's context

    def __init__(self, embedding: Embedding, carrier: Carrier):
        self.embedding, self._carrier = embedding, carrier

    @abstractmethod
    def bytes(self, batch_size: int, index_dtype: np.dtype) -> int:
        """What a batch brings to this process."""

    @abstractmethod
    def begin(self, indices: Any, rows: int) -> None:
        """A batch of `rows` rows begins, of which this process has those of `indices`."""

    @abstractmethod
    def send(self, grad_out: Any, context: Any) -> None:
        """The gradient of this process's rows is there; it stays as it is until the update."""

    @abstractmethod
    def update(self, lr: float) -> None:
        """Make the optimizer step of the batch."""


class Gather(Exchange):
    """All processes gather the ids and gradients of the batch, and make the update that a single
    process would make of it.
    """

    name, computes_first = "gather", False
    _rows = 0
    _ids: Pending[Any] = Done(None)
    _grads: Pending[Any] = Done(None)

    def bytes(self, batch_size: int, index_dtype: np.dtype) -> int:
        """See `Exchange.bytes`: an id and d elements for each place of a row."""
        embedding = self.embedding
        place = embedding.embedding_dim * embedding.dtype.itemsize + index_dtype.itemsize
        return self._carrier.gather_bytes(batch_size, embedding.num_tables * place)

    def begin(self, indices: Any, rows: int) -> None:
        """See `Exchange.begin`: ids travel while the layers compute."""
        self._rows = rows
        self._ids = self._carrier.start(self._carrier.gather, indices, rows)

    def send(self, grad_out: Any, context: Any) -> None:
        """See `Exchange.send`."""
        self._grads = self._carrier.start(self._carrier.gather, grad_out, self._rows)

    def update(self, lr: float) -> None:
        """See `Exchange.update`."""
        ids, grads = self._carrier.wait(self._ids), self._carrier.wait(self._grads)
        self._ids = self._grads = Done(None)  # which would keep their memory from the next batch
        self.embedding.update(grads, self.embedding.context(ids), lr)


class Reduce(Exchange):
    """Each process makes the dense gradient of its rows, as large as the array; these are added up
    and applied by all.
    """

    name, computes_first = "reduce", True

    def __init__(self, embedding: Embedding, carrier: Carrier):
        super().__init__(embedding, carrier)
        self._sums: dict[str, Pending[Any]] = {}
        self._kept: dict[str, Any] = {}  # fresh memory for an array's gradient would cost as much

    def bytes(self, batch_size: int, index_dtype: np.dtype) -> int:
        """See `Exchange.bytes`."""
        arrays = self.embedding.parameters().values()
        return sum(self._carrier.sum_bytes(array.size, array.itemsize) for array in arrays)

    def begin(self, indices: Any, rows: int) -> None:
        """See `Exchange.begin`."""

    def send(self, grad_out: Any, context: Any) -> None:
        """See `Exchange.send`."""
        self._kept = self.embedding.gradients(grad_out, context, self._kept)
        add_up = self._carrier.add_up
        self._sums = {name: self._carrier.start(add_up, g) for name, g in self._kept.items()}

    def update(self, lr: float) -> None:
        """See `Exchange.update`."""
        sums = {name: self._carrier.wait(pending) for name, pending in self._sums.items()}
        self.embedding.apply(sums, lr)


EXCHANGES = {exchange.name: exchange for exchange in (Gather, Reduce)}
AUTO = "auto"


@dataclass(frozen=True)
class Plan:
    """What a step of a full batch brings from others to a process, in bytes; the most of any.

    Parameters
    ----------
    exchange : the way that was chosen.
    choices : bytes of each way.
    dense : of the gradient of the dense parameters.
    bytes : of the way that was chosen, the dense part, loss and norm.
    """

    exchange: str
    choices: dict[str, int]
    dense: int
    bytes: int

    def __str__(self) -> str:
        others = [
            f"{name} would bring {count / 1e6:,.2f} MB"
            for name, count in self.choices.items()
            if name != self.exchange
        ]
        chosen, dense = self.choices[self.exchange] / 1e6, self.dense / 1e6
        return (
            f"{self.exchange} brings {chosen:,.2f} MB of the embedding's gradient to each per step "
            f"({', '.join(others)}), the dense part {dense:,.2f} MB"
        )


def check_exchange(name: str) -> None:
    """Require "auto" or a known exchange; ValueError otherwise."""
    if name not in (AUTO, *EXCHANGES):
        raise ValueError(f"exchange is {name!r}; choose one of {', '.join((AUTO, *EXCHANGES))}")
