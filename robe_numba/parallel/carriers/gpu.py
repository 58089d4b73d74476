"""Collective operations on GPUs: by NCCL, by a CUDA-aware MPI, or through the host."""

import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from mpi4py import MPI

from robe_numba.ops.devices import gpu_module
from robe_numba.parallel.carriers.base import Carrier, Pending, Traffic
from robe_numba.parallel.carriers.mpi import HostCarrier, MPICarrier

Result = TypeVar("Result")

# Variables that tell Open MPI, Cray MPICH and MVAPICH to take GPU arrays. There is no way to ask an
# MPI whether it does, and one that does not crashes.
CUDA_AWARE = ("OMPI_MCA_opal_cuda_support", "MPICH_GPU_SUPPORT_ENABLED", "MV2_USE_CUDA")


def gpu_carrier(communicator: Any) -> Carrier:
    """Choose a carrier.

    NCCL if CuPy has it in all processes; else MPI itself if the environment says that it takes GPU
    arrays; else copies on the host.
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
    """CuPy arrays, carried as copies on the host: slow, but any MPI will do."""

    def __init__(self, communicator: Any, xp: Any):
        super().__init__(communicator, overlap=False)
        self._xp = xp

    def all_gather_parts(self, rows: Any, counts: Sequence[int]) -> Any:
        return self._put(super().all_gather_parts(rows.get(), counts))

    def all_reduce(self, array: Any) -> Any:
        array[...] = self._put(super().all_reduce(array.get()))
        return array

    def all_reduce_scalars(self, numbers: Sequence[Any]) -> list[Any]:
        return list(self._put(np.array(super().all_reduce_scalars([float(n) for n in numbers]))))

    def _sum_rows(self, rows: np.ndarray, total: np.ndarray) -> None:
        MPICarrier._sum_rows(
            self, rows, total
        )  # a simulated GPU has no compiled kernels on the host

    def _put(self, array: np.ndarray) -> Any:
        """A copy on the GPU, complete on return: the host's memory is reused."""
        return self._xp.asarray(array, blocking=True)


class GPUMemoryCarrier(MPICarrier):
    """CuPy arrays, passed to a CUDA-aware MPI as they are.

    MPI knows nothing of streams, so `start` waits for the GPU and runs the whole transfer.
    """

    def __init__(self, communicator: Any, xp: Any):
        super().__init__(communicator)
        self._xp = xp

    def all_reduce_scalars(self, numbers: Sequence[Any]) -> list[Any]:
        return list(self.all_reduce(_stacked(self._xp, numbers)))

    def _scratch(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> Any:
        return self._xp.empty(shape, dtype)

    def _synchronize(self) -> None:
        gpu_module("device").wait()


class NCCLCarrier(Carrier):
    """CuPy arrays, carried by NCCL on a separate stream; only other streams wait for it.

    NCCL sums each element in one place and one order, as long as the machines and their number are
    the same.

    Parameters
    ----------
    backend : cupyx.distributed.NCCLBackend
        Of the processes.
    rank, size : int
        Of this process, and of all.
    xp : module
        CuPy.
    """

    def __init__(self, backend: Any, rank: int, size: int, xp: Any):
        self._nccl, self._xp = backend, xp
        self.rank, self.size, self.traffic = rank, size, Traffic()
        self._stream = xp.cuda.Stream(non_blocking=True)

    def start(self, transfer: Callable[..., Result], *arguments: Any) -> Pending[Result]:
        """It begins after the work that is now queued on the current stream."""
        current = self._xp.cuda.get_current_stream()
        self._stream.wait_event(current.record())
        with self._stream:
            result = transfer(*arguments)
            return _OnStream(result, self._stream.record(), arguments, self._xp)

    def all_gather_parts(self, rows: Any, counts: Sequence[int]) -> Any:
        """Pad parts to the longest: NCCL gathers equally many rows of each process."""
        padded = self._xp.zeros((max(counts), *rows.shape[1:]), rows.dtype)
        padded[: len(rows)] = rows
        gathered = self._xp.empty((self.size, *padded.shape), rows.dtype)
        self._nccl.all_gather(padded, gathered, padded.size, stream=self._stream)
        self.traffic.bytes += (self.size - 1) * padded.nbytes
        return self._xp.concatenate([gathered[r, :count] for r, count in enumerate(counts)])

    def all_reduce(self, array: Any) -> Any:
        self._nccl.all_reduce(array, array, op="sum", stream=self._stream)
        self.traffic.bytes += self.all_reduce_bytes(array.size, array.itemsize)
        return array

    def all_reduce_scalars(self, numbers: Sequence[Any]) -> list[Any]:
        return list(self.all_reduce(_stacked(self._xp, numbers)))


class _OnStream:
    """A transfer that is done when an event of its stream occurs.

    It keeps references to what the stream reads: CuPy would reuse that memory for the current
    stream's next array, which does not wait for other streams.
    """

    def __init__(self, value: Any, event: Any, arguments: tuple[Any, ...], xp: Any):
        self._value, self._event, self._xp = value, event, xp
        self._arguments = arguments

    def result(self) -> Any:
        """Return its result; the current stream waits for it, this process does not."""
        self._xp.cuda.get_current_stream().wait_event(self._event)
        self._arguments = ()
        return self._value


def _stacked(xp: Any, numbers: Sequence[Any]) -> Any:
    """Numbers, some of them arrays () on a GPU, as one array there, float64."""
    out = xp.empty((len(numbers),), np.float64)
    for place, number in enumerate(numbers):
        out[place] = number
    return out
