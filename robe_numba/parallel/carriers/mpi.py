"""Collective operations by MPI's own calls, on arrays of the host or of a GPU."""

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

from robe_numba._share_of import share_of
from robe_numba.dlrm.gradient_buffer import sum_rows
from robe_numba.memory import scratch
from robe_numba.parallel.carriers.base import Carrier, Done, Pending, Traffic

Result = TypeVar("Result")


class MPICarrier(Carrier):
    """Collective operations by MPI's own calls; subclasses provide memory.

    Parameters
    ----------
    communicator : mpi4py.MPI.Comm
        Used by nothing else.
    """

    def __init__(self, communicator: Any):
        self._mpi = communicator
        self.rank, self.size, self.traffic = communicator.rank, communicator.size, Traffic()

    @abstractmethod
    def _scratch(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> Any:
        """An uninitialised array, whose memory is reused once the caller drops it."""

    def _sum_rows(self, rows: Any, total: Any) -> None:
        """Sum rows (size, n) into total (n,), row 0 first."""
        total[...] = rows[0]
        for row in rows[1:]:
            total += row

    def _synchronize(self) -> None:
        """Wait until all arrays are in memory."""

    def start(self, transfer: Callable[..., Result], *arguments: Any) -> Pending[Result]:
        """The transfer is over when this returns."""
        before = self.traffic.seconds
        done = Done(self._timed(transfer, *arguments))
        self.traffic.waited += self.traffic.seconds - before
        return done

    def _timed(self, transfer: Callable[..., Result], *arguments: Any) -> Result:
        """Run a transfer and count its time."""
        started = time.perf_counter()
        result = transfer(*arguments)
        self.traffic.seconds += time.perf_counter() - started
        return result

    def all_gather_parts(self, rows: Any, counts: Sequence[int]) -> Any:
        out = self._scratch(
            f"gathered {rows.shape[1:]} {rows.dtype}", (sum(counts), *rows.shape[1:]), rows.dtype
        )
        self._synchronize()
        self._mpi.Allgatherv(buffer_of(rows), buffer_of_shares(out, counts))
        self.traffic.bytes += out.nbytes - rows.nbytes
        return out

    def all_reduce(self, array: Any) -> Any:
        """Each process sums its share of the elements."""
        flat = array.reshape(-1)
        mine, counts = share_of(flat.size, self.rank, self.size), self.shares(flat.size)
        rows = self._scratch("summands", (self.size, len(mine)), flat.dtype)
        own_parts = buffer_of_shares(flat, counts)
        self._synchronize()
        self._mpi.Alltoallv(own_parts, buffer_of_shares(rows.reshape(-1), [len(mine)] * self.size))
        self._sum_rows(rows, flat[mine.start : mine.stop])
        self._synchronize()
        self._mpi.Allgatherv(MPI.IN_PLACE, own_parts)
        self.traffic.bytes += self.all_reduce_bytes(flat.size, flat.itemsize)
        return array


class HostCarrier(MPICarrier):
    """NumPy arrays, carried by a separate thread while others compute.

    Parameters
    ----------
    communicator : mpi4py.MPI.Comm
        Used by nothing else.
    overlap : bool
        Whether there is such a thread; without it `start` runs the whole transfer.
    """

    def __init__(self, communicator: Any, overlap: bool = True):
        super().__init__(communicator)
        self._thread: ThreadPoolExecutor | None = None
        # The last transfer, by a weak reference so that its result is not kept in memory.
        self._last: Callable[[], Future[Any] | None] = lambda: None
        if overlap:
            # It computes sums alone: the other threads are busy.
            self._thread = ThreadPoolExecutor(
                1, "carrier", initializer=numba.set_num_threads, initargs=(1,)
            )

    def start(self, transfer: Callable[..., Result], *arguments: Any) -> Pending[Result]:
        if self._thread is None:
            return super().start(transfer, *arguments)
        pending = self._thread.submit(self._timed, transfer, *arguments)
        self._last = weakref.ref(pending)
        return pending

    @property
    def idle(self) -> bool:
        last = self._last()
        return last is None or last.done()

    def all_reduce_scalars(self, numbers: Sequence[Any]) -> list[Any]:
        mine = np.array(numbers, np.float64)
        rows = np.empty((self.size, len(numbers)), np.float64)
        self._mpi.Allgather(mine, rows)
        self.traffic.bytes += (self.size - 1) * mine.nbytes
        return [float(sum(column)) for column in rows.T]

    def _scratch(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        return scratch(name, shape, dtype)

    def _sum_rows(self, rows: np.ndarray, total: np.ndarray) -> None:
        sum_rows(rows, total)


def buffer_of_shares(array: Any, counts: Sequence[int]) -> list[Any]:
    """A buffer for MPI with consecutive rows for each process, by their counts.

    It is counted in elements, not in bytes: some MPI count to 2**31 only.
    """
    width = math.prod(array.shape[1:])
    sizes = [count * width for count in counts]
    starts = np.cumsum([0, *sizes[:-1]]).tolist()
    return [array.reshape(-1), (sizes, starts), from_numpy_dtype(array.dtype)]


def buffer_of(array: Any) -> list[Any]:
    """A C-contiguous array as a buffer for MPI."""
    return [array.reshape(-1), from_numpy_dtype(array.dtype)]
