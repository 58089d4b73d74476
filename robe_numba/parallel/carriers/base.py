"""Carrying gradients between processes, with a count of what that takes."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar

Result = TypeVar("Result")
Awaited = TypeVar("Awaited", covariant=True)


def share_of(count: int, rank: int, size: int) -> range:
    """Which of `count` things are the share of a rank: as many for each, but for one.

    `data_tools.share_of` is the same of rows; the packages do not know each other.
    """
    return range(rank * count // size, (rank + 1) * count // size)


@dataclass
class Traffic:
    """What was carried so far.

    Parameters
    ----------
    bytes : that came here from other processes.
    seconds : from the beginning to the end of each transfer, waiting for others included.
    waited : seconds in which this process could do nothing but wait for a transfer, or for those
        before it; handing it over included.
    """

    bytes: int = 0
    seconds: float = 0.0
    waited: float = 0.0

    def take(self) -> "Traffic":
        """This much, and begin anew."""
        taken = replace(self)
        self.bytes, self.seconds, self.waited = 0, 0.0, 0.0
        return taken

    @property
    def hidden(self) -> float:
        """Share of the transfers' time in which this process computed; 0 where there were none."""
        return max(0.0, 1 - self.waited / self.seconds) if self.seconds else 0.0


class Pending(Protocol[Awaited]):
    """A transfer that goes on while others compute."""

    def result(self) -> Awaited:
        """Wait for it."""


class Done(Generic[Result]):
    """A transfer that is over, or one that a stream of a GPU waits for."""

    def __init__(self, value: Result):
        self._value = value

    def result(self) -> Result:
        """What it gave."""
        return self._value


class Carrier(ABC):
    """Carries arrays of one device between processes, which all call the same in the same order.

    Each element of a sum is added up by one process, in the order of ranks (by NCCL in its own), so
    all have the same bits, and have them again in another run of as many processes.

    Attributes
    ----------
    traffic : what was carried so far.
    """

    rank: int
    size: int
    traffic: Traffic

    @abstractmethod
    def start(self, transfer: Callable[..., Result], *arguments: Any) -> Pending[Result]:
        """Begin a transfer, a method of this object, after those that were begun before."""

    @abstractmethod
    def gather(self, rows: Any, count: int) -> Any:
        """The rows of all processes in the order of ranks, in memory that is the caller's for as
        long as it refers to them.

        Parameters
        ----------
        rows : C-contiguous (share, ...), of `count` rows the share of this rank.
        """

    @abstractmethod
    def add_up(self, array: Any) -> Any:
        """The sum of the C-contiguous arrays of all processes, in place; returns it."""

    @abstractmethod
    def add_numbers(self, numbers: Sequence[Any]) -> list[Any]:
        """Sums of the numbers that each process gives, in float64; on a GPU of arrays () there."""

    @property
    def idle(self) -> bool:
        """Whether no transfer is under way that this process would wait for at its end."""
        return True

    def wait(self, pending: Pending[Result]) -> Result:
        """What a transfer gives, with the time of waiting for it counted."""
        begun = time.perf_counter()
        result = pending.result()
        self.traffic.waited += time.perf_counter() - begun
        return result

    def gather_bytes(self, count: int, row_bytes: int) -> int:
        """Bytes that `gather` brings to this process."""
        return (count - len(share_of(count, self.rank, self.size))) * row_bytes

    def sum_bytes(self, elements: int, itemsize: int) -> int:
        """Bytes that `add_up` brings to this process: its share of every other's array, then the
        sums of all other shares.
        """
        own = len(share_of(elements, self.rank, self.size))
        return ((self.size - 1) * own + elements - own) * itemsize
