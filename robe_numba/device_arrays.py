"""Which arrays are on a GPU: known without importing anything that a GPU needs."""

import sys
from functools import cache
from typing import Any

GPU_NEEDS = (
    "arrays on a GPU need CuPy and numba-cuda: pip install 'robe_numba[cuda]', or [cuda12] for a "
    "driver of CUDA 12"
)
_ON_DEVICE = ("__cuda_array_interface__", "__cuda_ndarray__")


def is_on_device(array: Any) -> bool:
    """Whether an array is on a GPU: of CuPy, PyTorch or Numba, or of Numba's simulator."""
    if is_tensor(array):  # a tensor that requires a gradient raises where its interface is read
        return bool(array.is_cuda)
    kind: Any = type(array)  # asked first: on a CuPy array the attribute takes microseconds
    return _is_device_type(kind) or any(n in getattr(array, "__dict__", ()) for n in _ON_DEVICE)


@cache
def _is_device_type(kind: type) -> bool:
    return any(hasattr(kind, name) for name in _ON_DEVICE)


def is_tensor(array: Any) -> bool:
    """Whether an array is a PyTorch tensor."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(array, torch.Tensor)
