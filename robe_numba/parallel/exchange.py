"""Two ways to bring an embedding's gradient from the rows of each process to the array of all.

Both leave the same bits in every process. The bytes of `gather` grow with the batch, those of
`reduce` with the array.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from robe_numba.dlrm.backends import backend_for
from robe_numba.dlrm.bags import MultiHot, bags_of
from robe_numba.dlrm.embeddings.base import Embedding
from robe_numba.formatting import format_bytes
from robe_numba.parallel.carriers.base import Carrier, Done, Pending
from robe_numba.parallel.gather_lists import gather_lists


class ListSizes(NamedTuple):
    """What is known of lists before they come."""

    ids: float = 0.0  # in all lists of a row, on average
    weighted: bool = False


class Exchange(ABC):
    """Updates an embedding, batch after batch, by the gradients of all processes.

    For each batch `begin`, `send` and `update` are called in this order.

    Parameters
    ----------
    embedding : Embedding
        This process's, of the same bits in all.
    carrier : Carrier
        Of the embedding's device.
    """

    name: ClassVar[str]
    computes_first: ClassVar[bool]  # before `send` sends, for which it needs the lookup's context

    def __init__(self, embedding: Embedding, carrier: Carrier):
        self.embedding, self._carrier = embedding, carrier

    @abstractmethod
    def bytes(self, batch_size: int, index_dtype: np.dtype, lists: ListSizes) -> int:
        """Bytes that this process receives for a batch with lists of these sizes."""

    @abstractmethod
    def begin(self, indices: Any, lists: MultiHot | None, rows: int) -> None:
        """Begin a batch of `rows` rows; `indices` and `lists` are those of this process."""

    @abstractmethod
    def send(self, grad_out: Any, context: Any) -> None:
        """Send the gradient of this process's rows, which must not change before the update."""

    @abstractmethod
    def update(self, lr: float) -> None:
        """Make the optimizer step of the batch."""


class Gather(Exchange):
    """All processes gather the ids and gradients of the batch.

    Each then makes the update that a single process would make.
    """

    name, computes_first = "gather", False
    _rows = 0
    _ids: Pending[Any] = Done(None)
    _lists: Pending[Any] = Done(None)
    _grads: Pending[Any] = Done(None)

    def __init__(self, embedding: Embedding, carrier: Carrier):
        super().__init__(embedding, carrier)
        self._xp = backend_for(embedding.device).xp

    def bytes(self, batch_size: int, index_dtype: np.dtype, lists: ListSizes) -> int:
        """d elements for each feature of a row, its id or the length of its list, and the lists."""
        embedding, itemsize = self.embedding, self.embedding.dtype.itemsize
        num_lists = len(embedding.pooling)
        rows = embedding.num_tables * embedding.embedding_dim * itemsize
        single = (embedding.num_tables - num_lists) * index_dtype.itemsize
        lengths = num_lists * np.dtype(np.int64).itemsize
        values = lists.ids * (index_dtype.itemsize + lists.weighted * itemsize)
        others = self._carrier.all_gather_bytes(batch_size, 1)
        return round(others * (rows + single + lengths + values))

    def begin(self, indices: Any, lists: MultiHot | None, rows: int) -> None:
        """Send the ids, while the layers compute."""
        self._rows, carrier = rows, self._carrier
        self._ids = carrier.start(carrier.all_gather, indices, rows)
        if lists is not None:
            counts = rows, len(self.embedding.pooling)
            self._lists = carrier.start(gather_lists, carrier, self._xp, lists, *counts)

    def send(self, grad_out: Any, context: Any) -> None:
        self._grads = self._carrier.start(self._carrier.all_gather, grad_out, self._rows)

    def update(self, lr: float) -> None:
        pending = (self._ids, self._lists, self._grads)
        ids, lists, grads = (self._carrier.wait(each) for each in pending)
        # Drop them: the next batch reuses their memory.
        self._ids = self._lists = self._grads = Done(None)
        if lists is not None:
            ids = bags_of(self._xp, ids, lists, self.embedding.pooling)
        self.embedding.update(grads, self.embedding.context(ids), lr)


class Reduce(Exchange):
    """Each process computes the dense gradient of its rows, as large as the array.

    These are summed, and each process applies the sum.
    """

    name, computes_first = "reduce", True

    def __init__(self, embedding: Embedding, carrier: Carrier):
        super().__init__(embedding, carrier)
        self._sums: dict[str, Pending[Any]] = {}
        self._gradients: dict[str, Any] = {}  # kept: fresh memory costs as much as the gradient

    def bytes(self, batch_size: int, index_dtype: np.dtype, lists: ListSizes) -> int:
        arrays = self.embedding.parameters().values()
        return sum(self._carrier.all_reduce_bytes(array.size, array.itemsize) for array in arrays)

    def begin(self, indices: Any, lists: MultiHot | None, rows: int) -> None:
        """Do nothing: only gradients travel."""

    def send(self, grad_out: Any, context: Any) -> None:
        self._gradients = self.embedding.gradients(grad_out, context, self._gradients)
        self._sums = {
            name: self._carrier.start(self._carrier.all_reduce, gradient)
            for name, gradient in self._gradients.items()
        }

    def update(self, lr: float) -> None:
        sums = {name: self._carrier.wait(pending) for name, pending in self._sums.items()}
        self.embedding.apply(sums, lr)


EXCHANGES = {exchange.name: exchange for exchange in (Gather, Reduce)}
AUTO = "auto"


@dataclass(frozen=True)
class ExchangePlan:
    """Bytes that a process receives in a step of a full batch, the most of any process.

    Parameters
    ----------
    exchange : str
        The chosen exchange.
    choices : dict of str to int
        Bytes of the embedding's gradient, by exchange.
    dense : int
        Bytes of the dense parameters' gradient.
    bytes : int
        Of all: the chosen exchange, the dense gradient, loss and norm.
    ids_per_row : float
        Ids in the lists of a row, on average, that `gather` is counted with; 0 without lists.
    """

    exchange: str
    choices: dict[str, int]
    dense: int
    bytes: int
    ids_per_row: float = 0.0

    def __str__(self) -> str:
        others = [
            f"{name} would bring {format_bytes(count)}"
            for name, count in self.choices.items()
            if name != self.exchange
        ]
        chosen, dense = format_bytes(self.choices[self.exchange]), format_bytes(self.dense)
        lists = f", with {self.ids_per_row:.1f} ids per row in lists" if self.ids_per_row else ""
        return (
            f"{self.exchange} brings each process {chosen} of the embedding's gradient per step "
            f"({', '.join(others)}{lists}), and {dense} of the dense gradient"
        )


def check_exchange(name: str) -> None:
    """Raise ValueError unless an exchange is known or "auto"."""
    if name not in (AUTO, *EXCHANGES):
        raise ValueError(f"exchange is {name!r}; choose one of {', '.join((AUTO, *EXCHANGES))}")
