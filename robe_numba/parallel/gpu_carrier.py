"""Gradients on GPUs: carried by NCCL, or by an MPI that reads and writes the memory of GPUs."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from robe_numba.ops.devices import gpu_module
from robe_numba.parallel.carrier import Carrier, Done, Pending, Traffic, share_of
from robe_numba.parallel.mpi import MPICarrier

Result = TypeVar("Result")


def gpu_carrier(communicator: Any) -> Carrier:
    """NCCL's where CuPy has it in all processes, else MPI's own."""
    device = gpu_module("device")
    xp = device.array_library()
    if communicator.allreduce(int(_has_nccl(xp, device.SIMULATED))) < communicator.size:
        return GPUMemoryCarrier(communicator, xp)
    from cupyx.distributed import NCCLBackend

    backend = NCCLBackend(communicator.size, communicator.rank, use_mpi=True)
    return NCCLCarrier(backend, communicator.rank, communicator.size, xp)


def _has_nccl(xp: Any, simulated: bool) -> bool:
    if simulated:
        return False
    try:
        from cupy.cuda import nccl
    except ImportError:
        return False
    return bool(nccl.available)


class GPUMemoryCarrier(MPICarrier):
    """CuPy arrays, given to MPI as they are; it must be one that is aware of CUDA.

    MPI knows nothing of streams, so each transfer waits for the GPU, and is over when it has begun.
    """

    def __init__(self, communicator: Any, xp: Any):
        super().__init__(communicator)
        self._xp = xp

    def start(self, transfer: Callable[..., Result], *arguments: Any) -> Pending[Result]:
        """See `Carrier.start`."""
        before = self.traffic.seconds
        done = Done(self.timed(transfer, *arguments))
        self.traffic.waited += self.traffic.seconds - before
        return done

    def add_numbers(self, numbers: Sequence[Any]) -> list[Any]:
        """See `Carrier.add_numbers`."""
        return list(self.add_up(_stacked(self._xp, numbers)))

    def _room(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> Any:
        return self._xp.empty(shape, dtype)

    def _add_rows(self, rows: Any, total: Any) -> None:
        total[...] = rows[0]
        for row in rows[1:]:
            total += row

    def _settle(self) -> None:
        gpu_module("device").wait()


class NCCLCarrier(Carrier):
    """CuPy arrays, carried by NCCL on a stream of its own; nobody waits for it but other streams.

    NCCL takes each element's sum in one place and one order as long as the machines and their
    number are the same.

    Parameters
    ----------
    backend : `cupyx.distributed.NCCLBackend` of the processes.
    xp : CuPy.
    """

    def __init__(self, backend: Any, rank: int, size: int, xp: Any):
        self._nccl, self._xp = backend, xp
        self.rank, self.size, self.traffic = rank, size, Traffic()
        self._stream = xp.cuda.Stream(non_blocking=True)

    def start(self, transfer: Callable[..., Result], *arguments: Any) -> Pending[Result]:
        """See `Carrier.start`: once what was asked of the current stream is done."""
        current = self._xp.cuda.get_current_stream()
        self._stream.wait_event(current.record())
        with self._stream:
            result = transfer(*arguments)
            return _OnStream(result, self._stream.record(), self._xp)

    def gather(self, rows: Any, count: int) -> Any:
        """See `Carrier.gather`: NCCL gathers as many rows of each, so the longest share's."""
        most = -(-count // self.size)
        padded = self._xp.zeros((most, *rows.shape[1:]), rows.dtype)
        padded[: len(rows)] = rows
        gathered = self._xp.empty((self.size, *padded.shape), rows.dtype)
        self._nccl.all_gather(padded, gathered, padded.size, stream=self._stream)
        shares = [len(share_of(count, rank, self.size)) for rank in range(self.size)]
        self.traffic.bytes += (self.size - 1) * padded.nbytes
        return self._xp.concatenate([gathered[r, :share] for r, share in enumerate(shares)])

    def add_up(self, array: Any) -> Any:
        """See `Carrier.add_up`."""
        self._nccl.all_reduce(array, array, op="sum", stream=self._stream)
        self.traffic.bytes += self.sum_bytes(array.size, array.itemsize)
        return array

    def add_numbers(self, numbers: Sequence[Any]) -> list[Any]:
        """See `Carrier.add_numbers`."""
        return list(self.add_up(_stacked(self._xp, numbers)))


class _OnStream:
    """What a stream will have done when its event comes."""

    def __init__(self, value: Any, event: Any, xp: Any):
        self._value, self._event, self._xp = value, event, xp

    def result(self) -> Any:
        """What it gave; the current stream waits for it, this process does not."""
        self._xp.cuda.get_current_stream().wait_event(self._event)
        return self._value


def _stacked(xp: Any, numbers: Sequence[Any]) -> Any:
    """Numbers, some of them arrays () on a GPU, as one array there."""
    out = xp.empty((len(numbers),), np.float64)
    for place, number in enumerate(numbers):
        out[place] = number
    return out
