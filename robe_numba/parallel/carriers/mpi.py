"""Carrying gradients on the host by MPI's own calls."""

import math
import time
import weakref
from abc import abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numba
import numpy as np
from mpi4py import MPI
from mpi4py.util.dtlib import from_numpy_dtype

from robe_numba.dlrm.gradient_buffer import sum_rows
from robe_numba.memory import scratch
from robe_numba.parallel.carriers.base import Carrier, Done, Pending, Traffic, share_of

Result = TypeVar("Result")


class MPICarrier(Carrier):
    """Carries arrays by MPI's own calls; subclasses know where memory comes from.

    Parameters
    ----------
    communicator : used by nothing else.
    """

    def __init__(self, communicator: Any):
        self._mpi = communicator
        self.rank, self.size, self.traffic = communicator.rank, communicator.size, Traffic()

    @abstractmethod
    def _room(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> Any:
        """An array of any content, the caller's for as long as it refers to it."""

    def _add_rows(self, rows: Any, total: Any) -> None:
        """total (n,) = the sum of rows (size, n), row 0 first."""
        total[...] = rows[0]
        for row in rows[1:]:
            total += row

    def _settle(self) -> None:
        """What was asked for is in memory when this returns."""

    def start(self, transfer: Callable[..., Result], *arguments: Any) -> Pending[Result]:
        """See `Carrier.start`: it is over when it has begun."""
        before = self.traffic.seconds
        done = Done(self._timed(transfer, *arguments))
        self.traffic.waited += self.traffic.seconds - before
        return done

    def _timed(self, transfer: Callable[..., Result], *arguments: Any) -> Result:
        """What a transfer gives, with its time counted."""
        begun = time.perf_counter()
        result = transfer(*arguments)
        self.traffic.seconds += time.perf_counter() - begun
        return result

    def gather(self, rows: Any, count: int) -> Any:
        """See `Carrier.gather`."""
        out = self._room(
            f"gathered {rows.shape[1:]} {rows.dtype}", (count, *rows.shape[1:]), rows.dtype
        )
        counts = [len(share_of(count, rank, self.size)) for rank in range(self.size)]
        self._settle()
        self._mpi.Allgatherv(whole(rows), pieces(out, counts))
        self.traffic.bytes += self.gather_bytes(count, out.nbytes // max(count, 1))
        return out

    def add_up(self, array: Any) -> Any:
        """See `Carrier.add_up`: each process adds up its share of the elements."""
        flat = array.reshape(-1)
        shares = [share_of(flat.size, rank, self.size) for rank in range(self.size)]
        mine, counts = shares[self.rank], [len(share) for share in shares]
        rows = self._room("summands", (self.size, len(mine)), flat.dtype)
        own_parts = pieces(flat, counts)
        self._settle()
        self._mpi.Alltoallv(own_parts, pieces(rows.reshape(-1), [len(mine)] * self.size))
        self._add_rows(rows, flat[mine.start : mine.stop])
        self._settle()
        self._mpi.Allgatherv(MPI.IN_PLACE, own_parts)
        self.traffic.bytes += self.sum_bytes(flat.size, flat.itemsize)
        return array


class HostCarrier(MPICarrier):
    """NumPy arrays, carried by a thread of its own while others compute.

    Parameters
    ----------
    communicator : used by nothing else.
    overlap : whether there is such a thread; without, a transfer is over when it has begun.
    """

    def __init__(self, communicator: Any, overlap: bool = True):
        super().__init__(communicator)
        self._thread: ThreadPoolExecutor | None = None
        # Of the transfers, which follow one another; its result is not to be kept in memory.
        self._last: Callable[[], Future[Any] | None] = lambda: None
        if overlap:
            # Its sums are taken by itself alone: the other threads have work of their own.
            self._thread = ThreadPoolExecutor(
                1, "carrier", initializer=numba.set_num_threads, initargs=(1,)
            )

    def start(self, transfer: Callable[..., Result], *arguments: Any) -> Pending[Result]:
        """See `Carrier.start`."""
        if self._thread is None:
            return super().start(transfer, *arguments)
        pending = self._thread.submit(self._timed, transfer, *arguments)
        self._last = weakref.ref(pending)
        return pending

    @property
    def idle(self) -> bool:
        """See `Carrier.idle`."""
        last = self._last()
        return last is None or last.done()

    def add_numbers(self, numbers: Sequence[Any]) -> list[Any]:
        """See `Carrier.add_numbers`."""
        mine = np.array(numbers, np.float64)
        rows = np.empty((self.size, len(numbers)), np.float64)
        self._mpi.Allgather(mine, rows)
        self.traffic.bytes += (self.size - 1) * mine.nbytes
        return [float(sum(column)) for column in rows.T]

    def _room(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        return scratch(name, shape, dtype)

    def _add_rows(self, rows: np.ndarray, total: np.ndarray) -> None:
        sum_rows(rows, total)


def pieces(array: Any, counts: Sequence[int]) -> list[Any]:
    """A buffer of MPI with so many rows for each process, one after the other.

    Counted in elements, not in bytes: many an MPI counts to 2**31 only.
    """
    width = math.prod(array.shape[1:])
    sizes = [count * width for count in counts]
    starts = np.cumsum([0, *sizes[:-1]]).tolist()
    return [array.reshape(-1), (sizes, starts), from_numpy_dtype(array.dtype)]


def whole(array: Any) -> list[Any]:
    """A C-contiguous array as a buffer of MPI."""
    return [array.reshape(-1), from_numpy_dtype(array.dtype)]
