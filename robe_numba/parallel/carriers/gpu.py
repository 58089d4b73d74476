"""Gradients on GPUs: carried by NCCL, by an MPI that takes arrays there, or by way of the host."""

import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from mpi4py import MPI

from robe_numba.ops.devices import gpu_module
from robe_numba.parallel.carriers.base import Carrier, Pending, Traffic, share_of
from robe_numba.parallel.carriers.mpi import HostCarrier, MPICarrier

Result = TypeVar("Result")

# By what Open MPI, Cray's MPICH and MVAPICH are told to take arrays on GPUs. An MPI cannot be asked
# whether it does, and one that does not ends the process.
CUDA_AWARE = ("OMPI_MCA_opal_cuda_support", "MPICH_GPU_SUPPORT_ENABLED", "MV2_USE_CUDA")


def gpu_carrier(communicator: Any) -> Carrier:
    """NCCL's where CuPy has it in all processes; else MPI's own if the environment says that MPI
    takes arrays on GPUs; else one by way of the host.
    """
    device = gpu_module("device")
    xp = device.array_library()
    # CuPy connects NCCL among all of MPI's processes.
    whole_world = communicator.size == MPI.COMM_WORLD.size
    if communicator.allreduce(int(whole_world and _has_nccl(xp, device.SIMULATED)), MPI.MIN):
        from cupyx.distributed import NCCLBackend

        backend = NCCLBackend(communicator.size, communicator.rank, use_mpi=True)
        return NCCLCarrier(backend, communicator.rank, communicator.size, xp)
    aware = any(os.environ.get(name, "").lower() in ("1", "true") for name in CUDA_AWARE)
    if communicator.allreduce(int(aware), MPI.MIN):
        return GPUMemoryCarrier(communicator, xp)
    return StagedCarrier(communicator, xp)


def _has_nccl(xp: Any, simulated: bool) -> bool:
    if simulated:
        return False
    try:
        from cupy.cuda import nccl
    except ImportError:
        return False
    return bool(nccl.available)


class StagedCarrier(HostCarrier):
    """CuPy arrays, carried as copies on the host: slow, and right with any MPI."""

    def __init__(self, communicator: Any, xp: Any):
        super().__init__(communicator, overlap=False)
        self._xp = xp

    def gather(self, rows: Any, count: int) -> Any:
        """See `Carrier.gather`."""
        return self._put(super().gather(rows.get(), count))

    def add_up(self, array: Any) -> Any:
        """See `Carrier.add_up`."""
        array[...] = self._put(super().add_up(array.get()))
        return array

    def add_numbers(self, numbers: Sequence[Any]) -> list[Any]:
        """See `Carrier.add_numbers`."""
        return list(self._put(np.array(super().add_numbers([float(n) for n in numbers]))))

    def _add_rows(self, rows: np.ndarray, total: np.ndarray) -> None:
        MPICarrier._add_rows(self, rows, total)  # a simulated GPU has no kernels on the host

    def _put(self, array: np.ndarray) -> Any:
        """A copy on the GPU, there when this returns: the host's memory is used again."""
        return self._xp.asarray(array, blocking=True)


class GPUMemoryCarrier(MPICarrier):
    """CuPy arrays, given to MPI as they are; it must be one that is aware of CUDA.

    MPI knows nothing of streams, so each transfer waits for the GPU, and is over when it has begun.
    """

    def __init__(self, communicator: Any, xp: Any):
        super().__init__(communicator)
        self._xp = xp

    def add_numbers(self, numbers: Sequence[Any]) -> list[Any]:
        """See `Carrier.add_numbers`."""
        return list(self.add_up(_stacked(self._xp, numbers)))

    def _room(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> Any:
        return self._xp.empty(shape, dtype)

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
            return _OnStream(result, self._stream.record(), arguments, self._xp)

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
    """What a stream will have done when its event comes.

    It keeps what the stream reads: CuPy would give the memory to the current stream's next array,
    which waits for no other stream.
    """

    def __init__(self, value: Any, event: Any, arguments: tuple[Any, ...], xp: Any):
        self._value, self._event, self._xp = value, event, xp
        self._arguments = arguments

    def result(self) -> Any:
        """What it gave; the current stream waits for it, this process does not."""
        self._xp.cuda.get_current_stream().wait_event(self._event)
        self._arguments = ()
        return self._value


def _stacked(xp: Any, numbers: Sequence[Any]) -> Any:
    """Numbers, some of them arrays () on a GPU, as one array there."""
    out = xp.empty((len(numbers),), np.float64)
    for place, number in enumerate(numbers):
        out[place] = number
    return out
