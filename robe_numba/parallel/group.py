"""Processes that train together: what each of them may ask of the others.

All processes of a group run the same program. Every method here but the properties is called by
all of them, in the same order.
"""

import os
import pickle
import platform
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from robe_numba.parallel.carriers.base import Carrier

Result = TypeVar("Result")
Rows = TypeVar("Rows", bound=tuple)  # named, of arrays (rows, ...) or None


class Peers(Protocol):
    """Processes that send each other rows, on a thread of its own in each."""

    rank: int
    size: int

    def exchange(self, parts: list[Rows]) -> list[Rows]:
        """As `Group.exchange`."""


def this_process() -> str:
    """What a person finds this process by."""
    return f"process {os.getpid()} on {platform.node()}"


class Group(ABC):
    """Processes that train together.

    Attributes
    ----------
    rank : which of them this is, from 0; the one of rank 0 reads and writes the run's folder.
    size : how many they are.
    threads : of each, so that those of one machine share its cores; None if it is alone.
    local_rank : which of those of its machine this is, from 0.
    peers : the same processes for a thread that reads ahead; None if it is alone.
    """

    rank: int
    size: int
    threads: int | None
    local_rank: int
    peers: Peers | None

    @property
    def is_root(self) -> bool:
        """Whether this is the process of rank 0."""
        return self.rank == 0

    @abstractmethod
    def collect(self, value: Any) -> list[Any]:
        """What each process gave, by rank; small values that can be pickled."""

    @abstractmethod
    def share(self, value: Any, owner: int = 0) -> Any:
        """What the process of rank `owner` gave."""

    @abstractmethod
    def highest(self, value: int) -> int:
        """The highest of the numbers that the processes gave."""

    @abstractmethod
    def spread(self, arrays: Sequence[Any]) -> None:
        """Overwrite C-contiguous arrays of either device by those of rank 0."""

    @abstractmethod
    def exchange(self, parts: list[Rows]) -> list[Rows]:
        """Send parts[r] to the process of rank r; what each sent here, in the order of ranks."""

    @abstractmethod
    def carrier(self, device: str) -> Carrier:
        """What carries gradients on a device, "cpu" or "cuda"."""

    def at_root(self, function: Callable[[], Result]) -> Result:
        """What a function gives at rank 0, where alone it is called; what it raises, all raise."""
        outcome: tuple[Any, BaseException | None] = None, None
        if self.is_root:
            try:
                outcome = function(), None
            except Exception as error:  # raised below, by all
                if self.size == 1:
                    raise
                outcome = None, _portable(error)
        result, raised = self.share(outcome)
        if raised is not None:
            raise raised
        return result


def _portable(error: Exception) -> Exception:
    """The error, or what it says where other processes could not make it again."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


class Alone(Group):
    """A single process."""

    rank, size, threads, local_rank, peers = 0, 1, None, 0, None

    def collect(self, value: Any) -> list[Any]:
        """Its own."""
        return [value]

    def share(self, value: Any, owner: int = 0) -> Any:
        """Its own."""
        return value

    def highest(self, value: int) -> int:
        """Its own."""
        return value

    def spread(self, arrays: Sequence[Any]) -> None:
        """To nobody."""

    def exchange(self, parts: list[Rows]) -> list[Rows]:
        """With itself."""
        return parts

    def carrier(self, device: str) -> Carrier:
        """There is nobody to carry to."""
        raise NotImplementedError("one process has no gradients to carry")
