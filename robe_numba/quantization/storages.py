"""The ways to store an array that is only read."""

import numpy as np

from robe_numba.quantization.quantized import QuantizedArray, quantize

STORAGES = ("float32", "float16", "bfloat16", "int8")


def check_storage(storage: str) -> None:
    """Raise ValueError unless a storage is known."""
    if storage not in STORAGES:
        raise ValueError(f"storage is {storage!r}; choose one of {', '.join(STORAGES)}")


def store(array: np.ndarray | QuantizedArray, storage: str) -> np.ndarray | QuantizedArray:
    """Store an array in fewer bytes, for reading alone.

    Parameters
    ----------
    array : ndarray, (array_size,) float32
        Finite values. One that is stored in fewer bytes already is refused.
    storage : {"float32", "float16", "bfloat16", "int8"}
        4, 2, 2 or about 1 byte an element; int8 with one scale for 128 elements (see `quantize`).

    Returns
    -------
    ndarray or QuantizedArray
        The array itself for float32.

    Raises
    ------
    TypeError
        The array has another dtype.
    ValueError
        The storage is unknown, or the array has a value that it cannot hold.
    ModuleNotFoundError
        bfloat16 without ml_dtypes.
    """
    check_storage(storage)
    if isinstance(array, QuantizedArray) or array.dtype != np.float32:
        stored = "int8" if isinstance(array, QuantizedArray) else array.dtype
        raise TypeError(f"the array is {stored}; only float32 can be stored as {storage}")
    if storage == "float32":
        return array
    if storage == "int8":
        return quantize(array)
    dtype, most = _half(storage)
    for extreme in (array.min(initial=0), array.max(initial=0)):
        if not abs(extreme) <= most:  # also for NaN
            raise ValueError(
                f"the array has the value {extreme}, but {storage} holds finite numbers up to "
                f"{most:.6g}; use another storage"
            )
    return array.astype(dtype)


def _half(storage: str) -> tuple[np.dtype, float]:
    """The dtype of a half, and the largest number that it holds."""
    if storage == "float16":
        return np.dtype(np.float16), float(np.finfo(np.float16).max)
    try:
        import ml_dtypes
    except ImportError as error:
        message = "bfloat16 needs ml_dtypes: pip install 'robe-numba[serve]', or [onnx]"
        raise ModuleNotFoundError(message, name=error.name) from error
    return np.dtype(ml_dtypes.bfloat16), float(ml_dtypes.finfo(ml_dtypes.bfloat16).max)
