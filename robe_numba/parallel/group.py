"""Processes that train together, and what each of them can ask of the others.

All processes of a group run the same program. Every method here but the properties is collective:
all of them call it, in the same order.
"""

import os
import platform
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar

from robe_numba.parallel.carriers.base import Carrier

if TYPE_CHECKING:  # `robe --help` imports this module, but not NumPy
    import numpy as np

Result = TypeVar("Result")
Rows = TypeVar("Rows", bound=tuple)  # named tuple of arrays (rows, ...) or None
Arguments = ParamSpec("Arguments")


def this_process() -> str:
    """Process id and host name, for messages."""
    return f"process {os.getpid()} on {platform.node()}"


class Group(ABC):
    """Processes that train together.

    Attributes
    ----------
    rank : int
        Of this process, from 0. Rank 0 alone reads and writes the run folder.
    size : int
        Number of processes.
    threads : int, optional
        Of each process, so that those of one machine share its cores; None if there is one.
    local_rank : int
        Rank among the processes of this machine.
    peers : data_tools.Peers, optional
        The same processes, for the thread that reads ahead; None if there is one.
    """

    rank: int
    size: int
    threads: int | None
    local_rank: int
    peers: Any

    @property
    def is_root(self) -> bool:
        """Whether this is the process of rank 0."""
        return self.rank == 0

    @abstractmethod
    def all_gather(self, value: Any) -> list[Any]:
        """The values of all processes, by rank: small ones that can be pickled."""

    @abstractmethod
    def broadcast(self, value: Any, root: int = 0) -> Any:
        """The value of the process of rank `root`."""

    @abstractmethod
    def all_max(self, value: int) -> int:
        """The largest of all processes' numbers."""

    @abstractmethod
    def broadcast_arrays(self, arrays: Sequence[Any]) -> None:
        """Overwrite C-contiguous arrays, on either device, by those of rank 0."""

    @abstractmethod
    def all_to_all(self, parts: list[Rows]) -> list[Rows]:
        """Send parts[r] to the process of rank r; return what each sent here, by rank."""

    @abstractmethod
    def carrier(self, device: str) -> Carrier:
        """What carries gradients on a device, "cpu" or "cuda"."""

    @abstractmethod
    def at_root(self, function: Callable[[], Result]) -> Result:
        """Call a function at rank 0 alone; all processes get its result or its error."""

    @abstractmethod
    def arrays_at_root(
        self, read: "Callable[[], dict[str, np.ndarray]]"
    ) -> "dict[str, np.ndarray]":
        """Read arrays at rank 0 alone; all processes get them, or the error."""


class Alone(Group):
    """A single process."""

    rank, size, threads, local_rank, peers = 0, 1, None, 0, None

    def all_gather(self, value: Any) -> list[Any]:
        return [value]

    def broadcast(self, value: Any, root: int = 0) -> Any:
        return value

    def all_max(self, value: int) -> int:
        return value

    def broadcast_arrays(self, arrays: Sequence[Any]) -> None:
        pass

    def all_to_all(self, parts: list[Rows]) -> list[Rows]:
        return parts

    def carrier(self, device: str) -> Carrier:
        raise NotImplementedError("one process has no gradients to carry")

    def at_root(self, function: Callable[[], Result]) -> Result:
        return function()

    def arrays_at_root(
        self, read: "Callable[[], dict[str, np.ndarray]]"
    ) -> "dict[str, np.ndarray]":
        return read()


class _Member(Protocol):
    """What belongs to one process of a group."""

    group: Group


Owner = TypeVar("Owner", bound=_Member)


def root_only(
    method: Callable[Concatenate[Owner, Arguments], Result],
) -> Callable[Concatenate[Owner, Arguments], Result]:
    """Make a method run at rank 0 of `self.group` alone; see `Group.at_root`."""

    @wraps(method)
    def call(self: Owner, /, *arguments: Arguments.args, **options: Arguments.kwargs) -> Result:
        return self.group.at_root(lambda: method(self, *arguments, **options))

    return call
