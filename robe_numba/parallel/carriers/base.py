"""Collective operations on gradients, with a count of what they carry."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar

from robe_numba._share_of import share_of

Result = TypeVar("Result")
Awaited = TypeVar("Awaited", covariant=True)


@dataclass
class Traffic:
    """What was carried so far.

    Parameters
    ----------
    bytes : int
        Received from other processes.
    seconds : float
        From the start to the end of each transfer, waiting for others included.
    waited : float
        Seconds in which this process could only wait for a transfer or for those before it,
        including the time to start it.
    """

    bytes: int = 0
    seconds: float = 0.0
    waited: float = 0.0

    def take(self) -> "Traffic":
        """Return the counts and reset them to 0."""
        taken = replace(self)
        self.bytes, self.seconds, self.waited = 0, 0.0, 0.0
        return taken

    @property
    def hidden(self) -> float:
        """Share of the transfers' time in which this process computed; 0 if there were none."""
        return max(0.0, 1 - self.waited / self.seconds) if self.seconds else 0.0


class Pending(Protocol[Awaited]):
    """A transfer that runs while the process computes."""

    def result(self) -> Awaited:
        """Wait for its result."""


class Done(Generic[Result]):
    """A transfer that is over, or one that a stream of a GPU waits for."""

    def __init__(self, value: Result):
        self._value = value

    def result(self) -> Result:
        """Return its result."""
        return self._value


class Carrier(ABC):
    """Collective operations on arrays of one device: all processes call the same in one order.

    Each element of a sum is computed by one process, in the order of ranks (by NCCL in an order of
    its own), so all processes have the same bits, and have them again in another run with the same
    number of processes.

    Attributes
    ----------
    traffic : Traffic
        What was carried so far.
    """

    rank: int
    size: int
    traffic: Traffic

    @abstractmethod
    def start(self, transfer: Callable[..., Result], *arguments: Any) -> Pending[Result]:
        """Start a transfer, a method of this object, after those that were started before."""

    def all_gather(self, rows: Any, count: int) -> Any:
        """Gather the rows of all processes, in the order of ranks.

        Parameters
        ----------
        rows : array, C-contiguous (share, ...)
            The share of this rank.
        count : int
            Rows of all processes together.

        Returns
        -------
        array, (count, ...)
            Its memory is reused once the caller drops it.
        """
        return self.all_gather_parts(rows, self.shares(count))

    @abstractmethod
    def all_gather_parts(self, rows: Any, counts: Sequence[int]) -> Any:
        """As `all_gather`, of any number of rows of each process: `counts`, by rank."""

    def shares(self, count: int) -> list[int]:
        """How many of `count` rows each process has, by rank."""
        return [len(share_of(count, rank, self.size)) for rank in range(self.size)]

    @abstractmethod
    def all_reduce(self, array: Any) -> Any:
        """Sum the C-contiguous arrays of all processes in place; returns the array."""

    @abstractmethod
    def all_reduce_scalars(self, numbers: Sequence[Any]) -> list[Any]:
        """Sum numbers of all processes in float64; on a GPU they are arrays () there."""

    @property
    def idle(self) -> bool:
        """Whether no transfer is running that this process would wait for when it ends."""
        return True

    def wait(self, pending: Pending[Result]) -> Result:
        """Wait for the result of a transfer, and count the time."""
        started = time.perf_counter()
        result = pending.result()
        self.traffic.waited += time.perf_counter() - started
        return result

    def all_gather_bytes(self, count: int, row_bytes: int) -> int:
        """Bytes that this process receives in `all_gather`."""
        return (count - len(share_of(count, self.rank, self.size))) * row_bytes

    def all_reduce_bytes(self, elements: int, itemsize: int) -> int:
        """Bytes that this process receives in `all_reduce`.

        Its share of every other process's array, then the sums of all other shares.
        """
        own = len(share_of(elements, self.rank, self.size))
        return ((self.size - 1) * own + elements - own) * itemsize
