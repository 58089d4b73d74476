"""What a model computes with: NumPy and a thread pool on the CPU, or CuPy on a GPU."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np

from robe_numba.checks.arrays import check_array
from robe_numba.device_arrays import is_on_device
from robe_numba.dlrm.config import DLRMConfig
from robe_numba.dlrm.gradient_buffer import clip_to_norm, sum_of_squares
from robe_numba.dlrm.thread_pool import ThreadPool, micro_batches
from robe_numba.memory import scratch
from robe_numba.ops.devices import gpu_module

Result = TypeVar("Result")
Rows = TypeVar("Rows", bound=tuple)  # named tuple of arrays (rows, ...) or None


class LayerOutputs(NamedTuple):
    """Memory for the outputs of a DLRM's layers on part of a batch."""

    bottom: list[Any]  # (batch, width) of each layer
    joined: Any  # (batch, width of the interaction)
    cross: list[Any]  # (batch, rank), (batch, width) and (batch, width) of each layer
    top: list[Any]  # (batch, width) of each layer


class Backend(ABC):
    """The array library and the execution of one kind of device."""

    device: ClassVar[str]
    scoring_rows: ClassVar[int]  # most rows that are scored at once, which bounds the memory
    xp: Any  # its array library: NumPy or CuPy

    @abstractmethod
    def select_device(self, number: int) -> None:
        """Use the device of this number, counted from 0 and modulo their number."""

    @abstractmethod
    def split(self, rows: int) -> list[slice]:
        """Cut a batch into parts that can be computed in parallel, by its number of rows alone."""

    @abstractmethod
    def run(
        self, task: Callable[[int], Result], count: int, uses_blas: bool = True
    ) -> list[Result]:
        """[task(0), ..., task(count - 1)]."""

    @abstractmethod
    def check(
        self, name: str, array: Any, shape: tuple[int, ...], dtypes: tuple[np.dtype, ...]
    ) -> None:
        """Require a C-contiguous array on this device, of the shape and one of the dtypes."""

    @abstractmethod
    def check_labels(self, labels: Any) -> None:
        """Require labels of 0 and 1, where checking does not wait for a GPU."""

    @abstractmethod
    def check_offsets(self, offsets: Any, count: int) -> None:
        """Require offsets (bags + 1,) that rise from 0 to `count`; as `check_labels`."""

    @abstractmethod
    def sum_of_squares(self, arrays: Sequence[Any]) -> Any:
        """Sum over all elements of C-contiguous arrays, in float64; on a GPU an array () there."""

    @abstractmethod
    def clip(self, arrays: Sequence[Any], squares: Any, limit: float) -> None:
        """Scale a gradient in place to a Euclidean norm of at most `limit`.

        `arrays` are parts of the gradient, `squares` the sum of squares of the whole.
        """

    @abstractmethod
    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """A new, uninitialised array."""

    @abstractmethod
    def asarray(self, array: Any) -> Any:
        """The array on this device: itself, or a copy that is complete on return."""

    @abstractmethod
    def feed(self, batches: Iterable[Rows]) -> Iterator[Rows]:
        """Batches of NumPy arrays, moved to this device; each is valid until the next."""

    @abstractmethod
    def stream(self) -> AbstractContextManager[Any]:
        """A context in which work is queued on a new stream."""

    @abstractmethod
    def scratch(self, name: str, shape: tuple[int, ...], dtype: Any) -> Any:
        """An uninitialised array; its memory is reused once the caller drops it."""

    def layer_outputs(
        self, config: DLRMConfig, rows: int, dtype: Any, keep: bool = True
    ) -> LayerOutputs:
        """Scratch memory for the output of each layer.

        Without `keep` all layers of a cross network have the same: enough for scoring.
        """

        def arrays(mlp: str, widths: tuple[int, ...]) -> list[Any]:
            shapes = [(rows, width) for width in widths]
            return [self.scratch(f"{mlp} {i}", shape, dtype) for i, shape in enumerate(shapes)]

        joined, *top = arrays("top", config.top_widths)
        width = config.interaction_width
        cross = [
            arrays(f"cross {layer * keep}", (rank, width, width))
            for layer, rank in enumerate(config.cross_ranks)
        ]
        return LayerOutputs(arrays("bottom", config.bottom_widths[1:]), joined, cross, top)

    def layer_gradients(self, *mlps: tuple[int, ...], rows: int, dtype: Any) -> list[list[Any]]:
        """Scratch memory for the gradient of each layer's input, for each MLP by its widths.

        Two buffers alternate: once a layer has the gradient of its input, that of its output is no
        longer needed. So the gradients stay in the cache.
        """
        most = rows * max(max(widths) for widths in mlps)
        buffers = [self.scratch(f"grad {side}", (most,), dtype) for side in range(2)]
        return [
            [
                buffers[position % 2][: rows * width].reshape(rows, width)
                for position, width in enumerate(widths)
            ]
            for widths in mlps
        ]


class CPUBackend(Backend):
    """NumPy arrays; threads compute parts of a batch, each in its own memory.

    Parameters
    ----------
    threads : int, optional
        Number of threads; by default Numba's.
    """

    device = "cpu"
    scoring_rows = 8192
    xp = np

    def __init__(self, threads: int | None = None):
        self._pool = ThreadPool(threads)

    def select_device(self, number: int) -> None:
        """Do nothing: there is one CPU."""

    def split(self, rows: int) -> list[slice]:
        return micro_batches(rows)

    def run(
        self, task: Callable[[int], Result], count: int, uses_blas: bool = True
    ) -> list[Result]:
        """On threads, with BLAS and kernels on one thread per task; a single task has all."""
        return self._pool.run(task, count, uses_blas)

    def check(
        self, name: str, array: Any, shape: tuple[int, ...], dtypes: tuple[np.dtype, ...]
    ) -> None:
        check_array(name, array, shape, dtypes)

    def check_labels(self, labels: Any) -> None:
        if not np.all((labels == 0) | (labels == 1)):
            raise ValueError("labels must be 0 or 1; map other values before training")

    def check_offsets(self, offsets: Any, count: int) -> None:
        first, last = int(offsets[0]), int(offsets[-1])
        falls = np.flatnonzero(offsets[1:] < offsets[:-1])
        if first != 0 or last != count or falls.size:
            fall = f", and fall at offsets[{falls[0] + 1}]" if falls.size else ""
            raise ValueError(
                f"offsets must begin at 0, never fall, and end at {count}, the number of values; "
                f"these begin at {first} and end at {last}{fall}"
            )

    def sum_of_squares(self, arrays: Sequence[Any]) -> Any:
        """On one thread, in a fixed order."""
        return sum_of_squares(arrays)

    def clip(self, arrays: Sequence[Any], squares: Any, limit: float) -> None:
        clip_to_norm(arrays, squares, limit)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        return np.empty(shape, dtype)

    def asarray(self, array: Any) -> Any:
        return to_numpy(array)

    def feed(self, batches: Iterable[Rows]) -> Iterator[Rows]:
        return iter(batches)

    def stream(self) -> AbstractContextManager[Any]:
        """An empty context: calls return when their work is done."""
        return nullcontext()

    def scratch(self, name: str, shape: tuple[int, ...], dtype: Any) -> Any:
        """Memory that is kept from call to call."""
        return scratch(f"dlrm {name}", shape, dtype)


class GPUBackend(Backend):
    """CuPy arrays; a batch is computed whole, on CuPy's current stream, without waiting for it."""

    device = "cuda"
    scoring_rows = 1 << 17

    def __init__(self) -> None:
        self._gpu = gpu_module("device")
        self._gpu.check_gpu()
        self.xp = self._gpu.array_library()

    def select_device(self, number: int) -> None:
        """Use that GPU from now on, for all work of this thread."""
        self._gpu.choose(number)

    def split(self, rows: int) -> list[slice]:
        """One part."""
        return [slice(0, rows)]

    def run(
        self, task: Callable[[int], Result], count: int, uses_blas: bool = True
    ) -> list[Result]:
        """One after the other."""
        return [task(part) for part in range(count)]

    def check(
        self, name: str, array: Any, shape: tuple[int, ...], dtypes: tuple[np.dtype, ...]
    ) -> None:
        gpu_module("views").view(name, array, shape, dtypes)

    def check_labels(self, labels: Any) -> None:
        """Check nothing: that would wait for the GPU."""

    def check_offsets(self, offsets: Any, count: int) -> None:
        """Check nothing; kernels read nothing beyond the values."""

    def sum_of_squares(self, arrays: Sequence[Any]) -> Any:
        return sum((array.astype(np.float64) ** 2).sum() for array in arrays)

    def clip(self, arrays: Sequence[Any], squares: Any, limit: float) -> None:
        factor = self.xp.minimum(1, limit / self.xp.sqrt(squares))
        for array in arrays:
            array *= factor.astype(array.dtype)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        return self.xp.empty(shape, dtype)

    def asarray(self, array: Any) -> Any:
        return self.xp.asarray(array, blocking=True)

    def feed(self, batches: Iterable[Rows]) -> Iterator[Rows]:
        """Copy each batch while the one before it is used."""
        return gpu_module("feeding").feed(batches)

    def stream(self) -> AbstractContextManager[Any]:
        """A new CUDA stream as CuPy's current one."""
        return self._gpu.new_stream()

    def scratch(self, name: str, shape: tuple[int, ...], dtype: Any) -> Any:
        """A new array: CuPy's memory pool makes that cheap."""
        return self.empty(shape, dtype)


DEVICES = (CPUBackend.device, GPUBackend.device)


def backend_for(device: str, threads: int | None = None) -> Backend:
    """The backend of a device.

    Parameters
    ----------
    device : str
        "cpu" or "cuda".
    threads : int, optional
        Threads of the CPU backend; by default Numba's.

    Returns
    -------
    Backend

    Raises
    ------
    ValueError
        The device is unknown.
    ImportError, OSError
        "cuda" without CuPy and Numba's CUDA target, or without a GPU.
    """
    if device not in DEVICES:
        raise ValueError(f"device is {device!r}; choose one of {', '.join(DEVICES)}")
    return CPUBackend(threads) if device == CPUBackend.device else GPUBackend()


def device_of(array: Any) -> str:
    """The device of an array, "cpu" or "cuda"."""
    return GPUBackend.device if is_on_device(array) else CPUBackend.device


def to_numpy(array: Any) -> np.ndarray:
    """The NumPy array itself, or a copy of one on a GPU."""
    return array.get() if is_on_device(array) else array
