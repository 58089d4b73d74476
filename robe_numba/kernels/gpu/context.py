"""What a call on a GPU works with: an array library, a stream, a device, and a spec's constants.

Only the constants of a spec and the modes of bags are waited for, at their first use on a device.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from robe_numba.kernels.coefficients import hash_spec
from robe_numba.kernels.gpu import arrays
from robe_numba.kernels.gpu.arrays import DeviceArray, array_library
from robe_numba.kernels.gpu.launch import Prepared
from robe_numba.kernels.scalar.bags import Modes, modes_of
from robe_numba.spec import Spec


class DeviceContext(NamedTuple):
    """The device and stream of a call, and the library that allocates its arrays."""

    xp: Any  # see `array_library`
    stream: int  # address of the caller's
    device: int  # number of the GPU

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Allocate an array without initializing it."""
        return self.xp.empty(shape, dtype)

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Allocate an array of zeros."""
        return self.xp.zeros(shape, dtype)

    def scratch(self, size: int, dtype: Any) -> DeviceArray:
        """Allocate memory (size,) for kernels, without initializing it."""
        return arrays.of(self.xp.empty(size, dtype))

    def begin_thread(self) -> None:
        """Let the calling thread use the GPU: CUDA keeps a context for each thread."""
        self.xp.cuda.Device(self.device).use()
        self.xp.cuda.runtime.free(0)


@lru_cache(maxsize=64)
def modes_on(modes: tuple[int, ...], device: int) -> Modes:
    """Give how tables are pooled, with the array on a device."""
    known = modes_of(modes)
    return known._replace(modes=_put(known.modes))


@lru_cache(maxsize=64)
def constants_on(spec: Spec, device: int) -> Prepared:
    """Give the kernels' constants of a spec, with their arrays on a device."""
    constants: Any = hash_spec(spec)  # whose arrays are replaced by their copies on the device
    return Prepared(
        constants._replace(
            coefficients=_put(constants.coefficients), sign_keys=_put(constants.sign_keys)
        )
    )


def _put(array: np.ndarray) -> DeviceArray:
    """Copy an array to the current device, and wait: streams read it without waiting."""
    return arrays.of(array_library().asarray(array, blocking=True))
