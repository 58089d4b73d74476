"""Arrays on a GPU, of whatever library, and the stream that work goes onto.

Nothing here waits for the device, and so nothing looks at values: kernels are safe for any.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from typing import Any, NamedTuple

import numba
import numpy as np
from numba import cuda

from robe_numba.checks import is_on_device
from robe_numba.coefficients import hash_spec
from robe_numba.hashing import HashSpec
from robe_numba.spec import Spec

INT64 = (np.dtype(np.int64),)
SIMULATED = bool(numba.config.ENABLE_CUDASIM)


class Work(NamedTuple):
    """What a call works with."""

    xp: Any  # CuPy, or NumPy under Numba's simulator
    stream: Any  # the caller's, for kernels

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """A new array of any content, for the user."""
        return _faked(self.xp.empty(shape, dtype))

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """A new array of zeros, for the user."""
        return _faked(self.xp.zeros(shape, dtype))

    def order(self, keys: Any) -> tuple[Any, Any]:
        """Which element of keys (n,) comes first, second, ... in a stable sort; and them sorted."""
        values = keys.copy_to_host() if SIMULATED else self.xp.asarray(keys)
        order = self.xp.argsort(values, kind="stable")
        return as_seen(_faked(order)), as_seen(_faked(values[order]))


def _faked(array: Any) -> Any:
    return cuda.to_device(array) if SIMULATED else array


def as_seen(array: Any) -> Any:
    """A device array as kernels take it."""
    return array if SIMULATED else cuda.as_cuda_array(array, sync=False)


@contextmanager
def work_on(array: Any) -> Iterator[Work]:
    """Work on the caller's current stream: PyTorch's for a tensor, else CuPy's.

    Raises ValueError if the array is on another GPU than the current one.
    """
    if SIMULATED:
        yield Work(np, 0)
        return
    try:
        import cupy
    except ImportError as error:
        raise ImportError("arrays on a GPU need CuPy: pip install 'robe_numba[cuda]'") from error
    home, current = cupy.asarray(array).device.id, cupy.cuda.runtime.getDevice()
    if home != current:
        raise ValueError(
            f"the arrays are on GPU {home} but the current one is {current}; use "
            f"cupy.cuda.Device({home})"
        )
    stream, context = cupy.cuda.get_current_stream().ptr, nullcontext()
    if type(array).__module__.split(".")[0] == "torch":
        stream = sys.modules["torch"].cuda.current_stream(array.device).cuda_stream
        context = cupy.cuda.ExternalStream(stream)
    with context:
        yield Work(cupy, cuda.external_stream(stream))


def view(name: str, array: Any, shape: tuple[int, ...] | None, dtypes: tuple[np.dtype, ...]) -> Any:
    """A device array as kernels take it: C-contiguous, of one of the dtypes and of the shape."""
    if not is_on_device(array):
        kind = type(array)
        raise TypeError(
            f"{name} must be on the GPU as the other arrays are, got {kind.__module__}."
            f"{kind.__name__}; use cupy.asarray({name})"
        )
    seen = as_seen(array)
    if seen.dtype not in dtypes:
        allowed = " or ".join(str(dtype) for dtype in dtypes)
        raise TypeError(f"{name} has dtype {seen.dtype}; it must be {allowed}")
    if shape is not None and tuple(seen.shape) != shape:
        raise ValueError(f"{name} has shape {tuple(seen.shape)}; expected {shape}")
    if not seen.is_c_contiguous():
        raise ValueError(f"{name} is not C-contiguous; use cupy.ascontiguousarray({name})")
    return seen


def check_apart(written: dict[str, Any], read: dict[str, Any]) -> None:
    """What is written shares no memory with any other array; what is no array is seen to later."""
    every = {
        name: _extent(array) for name, array in (written | read).items() if is_on_device(array)
    }
    for name in written:
        for other, (low, high) in every.items():
            if name in every and name != other and low < every[name][1] and every[name][0] < high:
                raise ValueError(f"{name} and {other} share memory; use {other}.copy()")


def _extent(array: Any) -> tuple[int, int]:
    """Addresses of an array's first byte and of the one after its last."""
    seen = as_seen(array)
    first = seen.ctypes.data if SIMULATED else int(seen.device_ctypes_pointer.value or 0)
    return first, first + seen.size * seen.dtype.itemsize


def flat(seen: Any, dtype: Any = None) -> Any:
    """A view (n,) of what `view` returned, of another dtype of equal size if given."""
    seen = seen.reshape(seen.size)
    return seen if dtype is None else seen.view(np.dtype(dtype))


def seen_flat(array: Any, dtype: Any = None) -> Any:
    """As `flat`, of an array that was made here."""
    return flat(as_seen(array), dtype)


def device_spec(spec: Spec) -> HashSpec:
    """The kernels' constants of a spec, on the current device."""
    return hash_spec(spec) if SIMULATED else _on_device(spec, cuda.get_current_device().id)


@lru_cache(maxsize=64)
def _on_device(spec: Spec, device: int) -> HashSpec:
    constants = hash_spec(spec)
    return constants._replace(
        coefficients=cuda.to_device(constants.coefficients),
        sign_keys=cuda.to_device(constants.sign_keys),
    )


def address(seen: Any) -> int:
    """Of an array's first byte; the simulator's count as aligned."""
    return 0 if SIMULATED else int(seen.device_ctypes_pointer.value)
