"""Where a model's arrays are and what computes there: the threads of the host, or a GPU."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np

from robe_numba.checks.arrays import check_array
from robe_numba.device_arrays import is_on_device
from robe_numba.dlrm.gradient_buffer import clip_together, sum_of_squares
from robe_numba.dlrm.presets import DLRMConfig
from robe_numba.dlrm.thread_pool import Workers, micro_batches
from robe_numba.memory import scratch
from robe_numba.ops.devices import gpu_module

Result = TypeVar("Result")
Batch = TypeVar("Batch", bound=tuple)  # named, of arrays (rows, ...) or None


class Outputs(NamedTuple):
    """Memory for what the layers of a DLRM give for some rows of a batch."""

    bottom: list[Any]  # (batch, width) of each layer
    joined: Any  # (batch, width of the interaction)
    top: list[Any]  # (batch, width) of each layer


class Placement(ABC):
    """What a model asks of the place where it is."""

    device: ClassVar[str]
    rows_at_once: ClassVar[int]  # of a batch that is scored, for which there is memory

    @abstractmethod
    def choose(self, number: int) -> None:
        """Be the one of this number, from 0 and around, of those that the machine has."""

    @abstractmethod
    def parts(self, rows: int) -> list[slice]:
        """Cut a batch into parts that may be computed at once, by its number of rows alone."""

    @abstractmethod
    def run(self, task: Callable[[int], Result], count: int) -> list[Result]:
        """[task(0), ..., task(count - 1)]."""

    @abstractmethod
    def check(
        self, name: str, array: Any, shape: tuple[int, ...], dtypes: tuple[np.dtype, ...]
    ) -> None:
        """Require a C-contiguous array of this place, of the shape and one of the dtypes."""

    @abstractmethod
    def check_labels(self, labels: Any) -> None:
        """Require labels of 0 and 1, where it costs little to look."""

    @abstractmethod
    def squares(self, arrays: Sequence[Any]) -> Any:
        """Sum of the squares of all elements of C-contiguous arrays, in float64; on a GPU an array
        () there.
        """

    @abstractmethod
    def clip(self, arrays: Sequence[Any], squares: Any, limit: float) -> None:
        """Scale arrays in place: those of a gradient whose squares have this sum, to a Euclidean
        norm of at most `limit`.
        """

    @abstractmethod
    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """A new array of any content."""

    @abstractmethod
    def put(self, array: Any) -> Any:
        """The array here: itself, or a copy."""

    @abstractmethod
    def feed(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Batches of NumPy arrays, with arrays of this place; each is valid until the next."""

    @abstractmethod
    def stream(self) -> AbstractContextManager[Any]:
        """Within the block, work that waits for nothing but itself."""

    @abstractmethod
    def room(self, name: str, shape: tuple[int, ...], dtype: Any) -> Any:
        """An array of any content, the caller's for as long as it refers to it."""

    def outputs(self, config: DLRMConfig, rows: int, dtype: Any) -> Outputs:
        """Room for the output of each layer."""

        def arrays(mlp: str, widths: tuple[int, ...]) -> list[Any]:
            return [self.room(f"{mlp} {i}", (rows, width), dtype) for i, width in enumerate(widths)]

        joined, *top = arrays("top", config.top_widths)
        return Outputs(arrays("bottom", config.bottom_widths[1:]), joined, top)

    def grads(self, *mlps: tuple[int, ...], rows: int, dtype: Any) -> list[list[Any]]:
        """Room for the gradient of each layer's input, for each MLP by these widths.

        Neighbours lie apart, others overlap: once a layer has the gradient of its input, nobody
        needs that of its output. So they stay in the cache.
        """
        most = rows * max(max(widths) for widths in mlps)
        rooms = [self.room(f"grad {side}", (most,), dtype) for side in range(2)]
        return [
            [
                rooms[position % 2][: rows * width].reshape(rows, width)
                for position, width in enumerate(widths)
            ]
            for widths in mlps
        ]


class OnHost(Placement):
    """NumPy arrays, and threads that compute parts of a batch in memory of their own.

    Parameters
    ----------
    threads : number of threads; None takes Numba's.
    """

    device = "cpu"
    rows_at_once = 8192

    def __init__(self, threads: int | None = None):
        self._workers = Workers(threads)

    def choose(self, number: int) -> None:
        """There is but one."""

    def parts(self, rows: int) -> list[slice]:
        """Parts of nearly equal size."""
        return micro_batches(rows)

    def run(self, task: Callable[[int], Result], count: int) -> list[Result]:
        """On threads, with BLAS and kernels on one thread per task."""
        return self._workers.run(task, count)

    def check(
        self, name: str, array: Any, shape: tuple[int, ...], dtypes: tuple[np.dtype, ...]
    ) -> None:
        """Require a NumPy array."""
        check_array(name, array, shape, dtypes)

    def check_labels(self, labels: Any) -> None:
        """Look at all."""
        if not np.all((labels == 0) | (labels == 1)):
            raise ValueError("labels must be 0 or 1; map other values before training")

    def squares(self, arrays: Sequence[Any]) -> Any:
        """On one thread, in one order."""
        return sum_of_squares(arrays)

    def clip(self, arrays: Sequence[Any], squares: Any, limit: float) -> None:
        """If they are longer."""
        clip_together(arrays, squares, limit)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """A new NumPy array."""
        return np.empty(shape, dtype)

    def put(self, array: Any) -> Any:
        """The NumPy array itself, or a copy of one on a GPU."""
        return fetched(array)

    def feed(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches themselves."""
        return iter(batches)

    def stream(self) -> AbstractContextManager[Any]:
        """Calls return when their work is done."""
        return nullcontext()

    def room(self, name: str, shape: tuple[int, ...], dtype: Any) -> Any:
        """Kept from call to call."""
        return scratch(f"dlrm {name}", shape, dtype)


class OnGPU(Placement):
    """CuPy arrays; a batch is computed whole, on CuPy's current stream."""

    device = "cuda"
    rows_at_once = 1 << 17

    def __init__(self) -> None:
        self._gpu = gpu_module("device")
        self._gpu.check_gpu()
        self._xp = self._gpu.array_library()

    def choose(self, number: int) -> None:
        """That GPU, from now on for all of this thread's work."""
        self._gpu.choose(number)

    def parts(self, rows: int) -> list[slice]:
        """One part."""
        return [slice(0, rows)]

    def run(self, task: Callable[[int], Result], count: int) -> list[Result]:
        """One after the other."""
        return [task(part) for part in range(count)]

    def check(
        self, name: str, array: Any, shape: tuple[int, ...], dtypes: tuple[np.dtype, ...]
    ) -> None:
        """Require an array on the GPU."""
        gpu_module("arrays").view(name, array, shape, dtypes)

    def check_labels(self, labels: Any) -> None:
        """Look at none: that would wait for the GPU."""

    def squares(self, arrays: Sequence[Any]) -> Any:
        """Without waiting for them."""
        return sum((array.astype(np.float64) ** 2).sum() for array in arrays)

    def clip(self, arrays: Sequence[Any], squares: Any, limit: float) -> None:
        """Without waiting for the norm."""
        factor = self._xp.minimum(1, limit / self._xp.sqrt(squares))
        for array in arrays:
            array *= factor.astype(array.dtype)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """A new CuPy array."""
        return self._xp.empty(shape, dtype)

    def put(self, array: Any) -> Any:
        """The CuPy array itself, or a copy of a NumPy array that is there when this returns."""
        return self._xp.asarray(array, blocking=True)

    def feed(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Batches that are copied while the one before them is computed with."""
        return gpu_module("feeding").feed(batches)

    def stream(self) -> AbstractContextManager[Any]:
        """A new CUDA stream, CuPy's current one."""
        return self._gpu.new_stream()

    def room(self, name: str, shape: tuple[int, ...], dtype: Any) -> Any:
        """Of CuPy's memory pool, which costs little."""
        return self.empty(shape, dtype)


DEVICES = (OnHost.device, OnGPU.device)


def placement(device: str, threads: int | None = None) -> Placement:
    """The place of a name, "cpu" or "cuda"; `threads` as `OnHost` takes them.

    Raises
    ------
    ValueError : no such place.
    ImportError, OSError : "cuda" without what it needs, or without a GPU.
    """
    if device not in DEVICES:
        raise ValueError(f"device is {device!r}; choose one of {', '.join(DEVICES)}")
    return OnHost(threads) if device == OnHost.device else OnGPU()


def device_of(array: Any) -> str:
    """Where an array is."""
    return OnGPU.device if is_on_device(array) else OnHost.device


def fetched(array: Any) -> np.ndarray:
    """The NumPy array itself, or a copy of one on a GPU."""
    return array.get() if is_on_device(array) else array
