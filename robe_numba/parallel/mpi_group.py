"""Groups of processes that MPI connects, through mpi4py."""

import math
import os
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

from robe_numba.dlrm.backends import fetched
from robe_numba.dlrm.gradient_buffer import sum_rows
from robe_numba.memory import scratch
from robe_numba.ops.devices import gpu_module
from robe_numba.parallel.carriers.base import Carrier, Done, Pending, Traffic, share_of
from robe_numba.parallel.group import Group, Rows

Result = TypeVar("Result")


class MPIGroup(Group):
    """The processes of MPI's world, or of another communicator.

    Transfers of gradients, of rows and all else have communicators of their own, so that threads
    need not agree on an order.

    Raises
    ------
    OSError : this MPI does not allow several threads to call it.
    """

    def __init__(self, communicator: Any = None, overlap: bool = True):
        if MPI.Query_thread() < MPI.THREAD_MULTIPLE:
            raise OSError(
                "MPI was begun without MPI_THREAD_MULTIPLE; use a build that has it, and leave "
                "mpi4py.rc.thread_level as it is"
            )
        self._all = MPI.COMM_WORLD if communicator is None else communicator
        self._control, rows, self._failures = (self._all.Dup() for _ in range(3))
        self.peers = _Peers(rows)
        self.rank, self.size = self._control.rank, self._control.size
        self._overlap, self._carriers = overlap, list[Carrier]()
        self._node = self._control.Split_type(MPI.COMM_TYPE_SHARED)
        self.threads, self.local_rank = self._fair_threads(), self._node.rank

    def _fair_threads(self) -> int:
        """Cores of this process, shared with those of its machine that may run on them too."""
        if hasattr(os, "sched_getaffinity"):
            own = set(os.sched_getaffinity(0))
        else:
            own = set(range(os.cpu_count() or 1))
        sharing = [cores for cores in self._node.allgather(own) if cores & own]
        cores = set().union(*sharing)
        return max(1, min(len(own), len(cores) // len(sharing)))

    def collect(self, value: Any) -> list[Any]:
        """See `Group.collect`."""
        return list(self._control.allgather(value))

    def share(self, value: Any, owner: int = 0) -> Any:
        """See `Group.share`."""
        return self._control.bcast(value, root=owner)

    def highest(self, value: int) -> int:
        """See `Group.highest`."""
        mine, found = np.array([value], np.int64), np.empty(1, np.int64)
        self._control.Allreduce(mine, found, MPI.MAX)
        return int(found[0])

    def spread(self, arrays: Sequence[Any]) -> None:
        """See `Group.spread`; those on a GPU by way of the host."""
        for array in arrays:
            host = fetched(array)
            self._control.Bcast(whole(host), root=0)
            if host is not array and not self.is_root:
                array[...] = gpu_module("device").array_library().asarray(host, blocking=True)

    def exchange(self, parts: list[Rows]) -> list[Rows]:
        """See `Group.exchange`."""
        return _exchange(self._control, parts)

    def carrier(self, device: str) -> Carrier:
        """See `Group.carrier`."""
        if device == "cuda":
            from robe_numba.parallel.carriers.gpu import gpu_carrier

            carrier = gpu_carrier(self._all.Dup())
        else:
            carrier = HostCarrier(self._all.Dup(), self._overlap)
        self._carriers.append(carrier)
        return carrier

    def failures(self, reason: str, seconds: float) -> list[tuple[str, bool]] | None:
        """Why each process failed and whether it has no transfer under way, by rank; None if not
        all come here within so many seconds.
        """
        request, until = self._failures.Ibarrier(), time.monotonic() + seconds
        while not request.Test():
            if time.monotonic() > until:
                return None
            time.sleep(0.01)
        idle = all(carrier.idle for carrier in self._carriers)
        return list(self._failures.allgather((reason, idle)))

    def abort(self) -> None:
        """End all processes at once, this one too."""
        self._all.Abort(1)
        os._exit(1)  # an MPI may come back from that


class _Peers:
    """See `robe_numba.parallel.group.Peers`."""

    def __init__(self, communicator: Any):
        self._mpi = communicator
        self.rank, self.size = communicator.rank, communicator.size

    def exchange(self, parts: list[Rows]) -> list[Rows]:
        """See `Group.exchange`."""
        return _exchange(self._mpi, parts)


def _exchange(communicator: Any, parts: list[Rows]) -> list[Rows]:
    sent = [len(next(array for array in part if array is not None)) for part in parts]
    counts: list[int] = communicator.alltoall(sent)
    columns: list[list[Any]] = []
    for arrays in zip(*parts, strict=True):
        if arrays[0] is None:
            columns.append([None] * len(parts))
            continue
        joined = np.concatenate(arrays)
        out = np.empty((sum(counts), *joined.shape[1:]), joined.dtype)
        communicator.Alltoallv(pieces(joined, sent), pieces(out, counts))
        columns.append(np.split(out, np.cumsum(counts)[:-1]))
    kind: Any = type(parts[0])
    return [kind(*row) for row in zip(*columns, strict=True)]


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
