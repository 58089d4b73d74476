"""Groups of processes that MPI connects, through mpi4py."""

import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from mpi4py import MPI

from robe_numba.dlrm.backends import to_numpy
from robe_numba.ops.devices import gpu_module
from robe_numba.parallel.carriers.base import Carrier
from robe_numba.parallel.carriers.mpi import HostCarrier, pieces, whole
from robe_numba.parallel.group import Group, Rows


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
            host = to_numpy(array)
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
