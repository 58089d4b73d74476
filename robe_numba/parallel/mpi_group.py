"""Groups of processes that MPI connects, through mpi4py."""

import os
import pickle
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from mpi4py import MPI

from robe_numba.dlrm.backends import to_numpy
from robe_numba.ops.devices import gpu_module
from robe_numba.parallel.carriers.base import Carrier
from robe_numba.parallel.carriers.mpi import HostCarrier, buffer_of, buffer_of_shares
from robe_numba.parallel.group import Group, Rows

Result = TypeVar("Result")


class MPIGroup(Group):
    """The processes of MPI's world, or of another communicator.

    Gradients, rows and everything else travel over separate communicators, so that threads need not
    agree on an order.

    Parameters
    ----------
    communicator : mpi4py.MPI.Comm, optional
        By default MPI.COMM_WORLD.
    overlap : bool
        Whether gradients on the host are carried by a thread of their own.

    Raises
    ------
    OSError
        This MPI does not allow several threads to call it.
    """

    def __init__(self, communicator: Any = None, overlap: bool = True):
        if MPI.Query_thread() < MPI.THREAD_MULTIPLE:
            raise OSError(
                "MPI was started without MPI_THREAD_MULTIPLE; use a build that has it, and leave "
                "mpi4py.rc.thread_level as it is"
            )
        self._all = MPI.COMM_WORLD if communicator is None else communicator
        self._control, rows, self._failures = (self._all.Dup() for _ in range(3))
        self.peers = MPIPeers(rows)
        self.rank, self.size = self._control.rank, self._control.size
        self._overlap, self._carriers = overlap, list[Carrier]()
        self._node = self._control.Split_type(MPI.COMM_TYPE_SHARED)
        self.threads, self.local_rank = self._fair_threads(), self._node.rank

    def _fair_threads(self) -> int:
        """A fair share of this process's cores, which others of its machine may use too."""
        if hasattr(os, "sched_getaffinity"):
            own = set(os.sched_getaffinity(0))
        else:
            own = set(range(os.cpu_count() or 1))
        sharing = [cores for cores in self._node.allgather(own) if cores & own]
        cores = set().union(*sharing)
        return max(1, min(len(own), len(cores) // len(sharing)))

    def all_gather(self, value: Any) -> list[Any]:
        return list(self._control.allgather(value))

    def broadcast(self, value: Any, root: int = 0) -> Any:
        return self._control.bcast(value, root=root)

    def all_max(self, value: int) -> int:
        mine, found = np.array([value], np.int64), np.empty(1, np.int64)
        self._control.Allreduce(mine, found, MPI.MAX)
        return int(found[0])

    def broadcast_arrays(self, arrays: Sequence[Any]) -> None:
        """By way of the host for arrays on a GPU."""
        for array in arrays:
            host = to_numpy(array)
            self._control.Bcast(buffer_of(host), root=0)
            if host is not array and not self.is_root:
                array[...] = gpu_module("device").array_library().asarray(host, blocking=True)

    def all_to_all(self, parts: list[Rows]) -> list[Rows]:
        return _all_to_all(self._control, parts)

    def carrier(self, device: str) -> Carrier:
        if device == "cuda":
            from robe_numba.parallel.carriers.gpu import gpu_carrier

            carrier = gpu_carrier(self._all.Dup())
        else:
            carrier = HostCarrier(self._all.Dup(), self._overlap)
        self._carriers.append(carrier)
        return carrier

    def at_root(self, function: Callable[[], Result]) -> Result:
        outcome: tuple[Any, BaseException | None] = None, None
        if self.is_root:
            try:
                outcome = function(), None
            except Exception as error:  # raised below, by all
                outcome = None, _picklable(error)
        result, raised = self.broadcast(outcome)
        if raised is not None:
            raise raised
        return result

    def arrays_at_root(self, read: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        arrays: dict[str, np.ndarray] = {}

        def read_forms() -> dict[str, tuple[tuple[int, ...], str]]:
            arrays.update(read())
            return {name: (array.shape, array.dtype.str) for name, array in arrays.items()}

        forms = self.at_root(read_forms)
        if not self.is_root:
            arrays = {name: np.empty(*form) for name, form in forms.items()}
        self.broadcast_arrays([arrays[name] for name in forms])
        return arrays

    def failures(self, reason: str, seconds: float) -> list[tuple[str, bool]] | None:
        """Tell the others why this process fails.

        Parameters
        ----------
        reason : str
            Of this process.
        seconds : float
            How long to wait for the others.

        Returns
        -------
        list of (str, bool), optional
            Reason of each process, and whether no transfer is running there, by rank; None if not
            all came here in time.
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
        os._exit(1)  # some MPI return from Abort


class MPIPeers:
    """The processes of a communicator, as `data_tools.Peers`: they send each other rows."""

    def __init__(self, communicator: Any):
        self._mpi = communicator
        self.rank, self.size = communicator.rank, communicator.size

    def exchange(self, parts: list[Rows]) -> list[Rows]:
        """Send parts[r] to the process of rank r; return what each sent here, by rank."""
        return _all_to_all(self._mpi, parts)


def _all_to_all(communicator: Any, parts: list[Rows]) -> list[Rows]:
    sent = [len(next(array for array in part if array is not None)) for part in parts]
    counts: list[int] = communicator.alltoall(sent)
    columns: list[list[Any]] = []
    for arrays in zip(*parts, strict=True):
        if arrays[0] is None:
            columns.append([None] * len(parts))
            continue
        joined = np.concatenate(arrays)
        out = np.empty((sum(counts), *joined.shape[1:]), joined.dtype)
        communicator.Alltoallv(buffer_of_shares(joined, sent), buffer_of_shares(out, counts))
        columns.append(np.split(out, np.cumsum(counts)[:-1]))
    kind: Any = type(parts[0])
    return [kind(*row) for row in zip(*columns, strict=True)]


def _picklable(error: Exception) -> Exception:
    """The error, or its text if it does not survive pickling."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
