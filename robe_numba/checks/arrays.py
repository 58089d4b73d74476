"""Checks of arrays. Kernels, which check nothing, are safe with whatever passes.

Messages state the rule, the value and the remedy. Nothing is written before all checks of a call
have passed. The rules hold for arrays of either device; `robe_numba.ops.gpu` applies them to those
on a GPU.
"""

from typing import Any, NamedTuple

import numpy as np

from robe_numba.checks.scalars import type_name
from robe_numba.device_arrays import is_on_device
from robe_numba.memory import aligned_empty
from robe_numba.spec import Spec

NUMPY_ARRAYS = (np.ndarray, np.memmap)
ARRAY_DTYPES = tuple(np.dtype(name) for name in ("float32", "float64"))
# Arrays that are only read may also hold halves; the arithmetic on them is float32. So may those of
# bfloat16, a dtype of the package ml_dtypes that NumPy does not know.
STORED_DTYPES = (*ARRAY_DTYPES, np.dtype("float16"))
BFLOAT16_BITS = np.dtype("int16")  # what kernels take bfloat16 as


class ArrayLayout(NamedTuple):
    """What the rules look at in an array of either device."""

    dtype: Any  # NumPy's, or void where NumPy has none
    shape: tuple[int, ...]
    contiguous: bool  # in C order
    aligned: bool
    library: str  # whose functions mend it, "numpy" or "cupy"


def check_layout(
    name: str, layout: ArrayLayout, shape: tuple[int, ...] | None, dtypes: tuple[np.dtype, ...]
) -> None:
    """Require one of the dtypes, C order, alignment and, unless None, the shape."""
    if layout.dtype not in dtypes:
        raise TypeError(
            f"{name} has dtype {layout.dtype}; it must be {names_of(dtypes)}: use "
            f"{name}.astype(numpy.{_holding(layout.dtype, dtypes)})"
        )
    if shape is not None and layout.shape != shape:
        raise ValueError(f"{name} has shape {layout.shape}; expected {shape}")
    if not layout.contiguous:
        raise ValueError(
            f"{name} is not C-contiguous; use {layout.library}.ascontiguousarray({name})"
        )
    if not layout.aligned:
        raise ValueError(f"{name} is not aligned in memory; use {name}.copy()")


def require_writeable(name: str, writeable: bool) -> None:
    """Refuse to write to a read-only array of either device."""
    if not writeable:
        raise ValueError(f"{name} is read-only, but it would be written to; use {name}.copy()")


def require_apart(name: str, other: str, overlap: bool) -> None:
    """Refuse to write to an array of either device that shares memory with another."""
    if overlap:
        raise ValueError(f"{name} and {other} share memory; use {other}.copy()")


def check_array(
    name: str, array: Any, shape: tuple[int, ...] | None, dtypes: tuple[np.dtype, ...]
) -> np.ndarray:
    """Require a C-contiguous NumPy array of one of the dtypes and, unless None, of the shape."""
    # Subclasses may compare and index otherwise than kernels read, as masked arrays do.
    if type(array) not in NUMPY_ARRAYS:
        raise TypeError(
            f"{name} must be a NumPy array, got {type_name(array)}; use {_conversion(array)}"
        )
    flags = array.flags
    layout = ArrayLayout(array.dtype, array.shape, flags.c_contiguous, flags.aligned, "numpy")
    check_layout(name, layout, shape, dtypes)
    return array


def _holding(dtype: np.dtype, dtypes: tuple[np.dtype, ...]) -> np.dtype:
    """Which of the dtypes to convert to: the first that holds every value, else the widest."""
    widest = max(dtypes, key=lambda wanted: wanted.itemsize)
    return next((wanted for wanted in dtypes if np.can_cast(dtype, wanted)), widest)


def _conversion(array: Any) -> str:
    """What turns an array of another kind into NumPy's."""
    if is_on_device(array):
        return "cupy.asnumpy"
    return "filled()" if isinstance(array, np.ma.MaskedArray) else "numpy.asarray"


def names_of(dtypes: tuple[np.dtype, ...]) -> str:
    """The allowed dtypes, for a message."""
    names = [str(dtype) for dtype in dtypes]
    return " or ".join([*names, "bfloat16"] if dtypes is STORED_DTYPES else names)


def check_shared_array(array: Any, spec: Spec) -> np.ndarray:
    """Require the array (array_size,) that an update moves."""
    return check_array("array", array, (spec.array_size,), ARRAY_DTYPES)


def check_stored_array(array: Any, spec: Spec) -> np.ndarray:
    """Require the array (array_size,) that embeddings are read from; returned as kernels take it.

    They take halves by their bits: float16 as uint16, bfloat16 as int16.
    """
    if is_bfloat16(array) and type(array) in NUMPY_ARRAYS:
        return check_array("array", array.view(BFLOAT16_BITS), (spec.array_size,), (BFLOAT16_BITS,))
    check_array("array", array, (spec.array_size,), STORED_DTYPES)
    return array.view(np.uint16) if array.dtype == np.float16 else array


def is_bfloat16(array: Any) -> bool:
    """Whether elements are bfloat16, of ml_dtypes or of PyTorch."""
    dtype = getattr(array, "dtype", None)
    if isinstance(dtype, np.dtype) and dtype.isbuiltin == 1:
        return False  # without asking for the name, which takes NumPy long
    known = getattr(dtype, "name", str(dtype)) in ("bfloat16", "torch.bfloat16")
    return known and getattr(dtype, "isnative", True)


def real_dtype(stored: Any) -> np.dtype:
    """The dtype of arithmetic on a stored array: float32 for halves, else its own."""
    return np.dtype(np.float32) if stored.dtype.itemsize == 2 else stored.dtype


def check_out(
    name: str, out: Any, shape: tuple[int, ...], dtype: np.dtype, read: dict[str, np.ndarray]
) -> np.ndarray:
    """The array that a call fills: new where `out` is None, else apart from what the call reads."""
    if out is None:
        return aligned_empty(shape, dtype)
    check_array(name, out, shape, (dtype,))
    check_written(**{name: out})
    for other, array in read.items():
        check_apart(name, out, other, array)
    return out


def check_written(**arrays: np.ndarray) -> None:
    """Require arrays that are writeable and apart from each other."""
    names = list(arrays)
    for name in names:
        require_writeable(name, arrays[name].flags.writeable)
    for i, name in enumerate(names):
        for other in names[i + 1 :]:
            check_apart(name, arrays[name], other, arrays[other])


def check_apart(name: str, array: np.ndarray, other_name: str, other: np.ndarray) -> None:
    """Require two arrays that share no memory."""
    require_apart(name, other_name, np.may_share_memory(array, other))


def check_kept_starts(
    starts: Any, shape: tuple[int, ...], read: dict[str, np.ndarray]
) -> tuple[np.ndarray, bool]:
    """The starts that a forward pass fills in, flat for kernels, and whether there are any."""
    if starts is None:
        return np.empty(0, dtype=np.uint64), False
    check_out("starts", starts, shape, np.dtype(np.int64), read)
    return starts.view(np.uint64).reshape(-1), True
