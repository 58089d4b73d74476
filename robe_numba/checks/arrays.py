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
from robe_numba.quantization.quantized import QuantizedArray, check_block
from robe_numba.spec import Spec

NUMPY_ARRAYS = (np.ndarray, np.memmap)
ARRAY_DTYPES = tuple(np.dtype(name) for name in ("float32", "float64"))
# Arrays that are only read may also hold halves; the arithmetic on them is float32. So may those of
# bfloat16, a dtype of the package ml_dtypes that NumPy does not know.
STORED_DTYPES = (*ARRAY_DTYPES, np.dtype("float16"))
BFLOAT16_BITS = np.dtype("int16")  # what kernels take bfloat16 as
StoredArray = np.ndarray | QuantizedArray  # what embeddings are read from


class ArrayLayout(NamedTuple):
    """How an array of either device lies in memory."""

    array: Any
    dtype: np.dtype  # void where NumPy does not know the array's own
    shape: tuple[int, ...]
    contiguous: bool  # in C order
    aligned: bool


def refuse_layout(
    name: str, layout: ArrayLayout, shape: tuple[int, ...] | None, dtypes: tuple[np.dtype, ...]
) -> None:
    """Raise what is wrong: the dtype, the shape unless that is None, the order or the alignment."""
    if layout.dtype not in dtypes:
        dtype = getattr(layout.array, "dtype", layout.dtype)
        wanted = f"numpy.{_holding(layout.dtype, dtypes)}"
        remedy = f"{name}.astype({wanted})"
        if is_on_device(layout.array):
            remedy = f"cupy.asarray({name}, {wanted})"
        raise TypeError(f"{name} has dtype {dtype}; it must be {_names_of(dtypes)}: use {remedy}")
    if shape is not None and layout.shape != shape:
        raise ValueError(f"{name} has shape {layout.shape}; expected {shape}")
    if not layout.contiguous:
        library = "cupy" if is_on_device(layout.array) else "numpy"
        raise ValueError(f"{name} is not C-contiguous; use {library}.ascontiguousarray({name})")
    if not layout.aligned:
        raise ValueError(f"{name} is not aligned in memory; use {name}.copy()")


def refuse_read_only(name: str) -> None:
    """Raise that an array is read-only."""
    raise ValueError(f"{name} is read-only, but it would be written to; use {name}.copy()")


def refuse_overlap(name: str, other: str) -> None:
    """Raise that an array that is written to shares memory with another."""
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
    fits = array.dtype in dtypes and (shape is None or array.shape == shape)
    if not (fits and flags.c_contiguous and flags.aligned):
        layout = ArrayLayout(array, array.dtype, array.shape, flags.c_contiguous, flags.aligned)
        refuse_layout(name, layout, shape, dtypes)
    return array


def _holding(dtype: np.dtype, dtypes: tuple[np.dtype, ...]) -> np.dtype:
    """Which of the dtypes to convert to: the first that holds every value, else the widest."""
    widest = max(dtypes, key=lambda wanted: wanted.itemsize)
    return next((wanted for wanted in dtypes if np.can_cast(dtype, wanted)), widest)


def _conversion(array: Any) -> str:
    """What turns an array of another kind into NumPy's."""
    if is_on_device(array):
        return "cupy.asnumpy"
    if isinstance(array, QuantizedArray):  # where it would be written, or have a gradient
        return "its dequantize()"
    return "filled()" if isinstance(array, np.ma.MaskedArray) else "numpy.asarray"


def _names_of(dtypes: tuple[np.dtype, ...]) -> str:
    """The allowed dtypes, for a message."""
    names = [str(dtype) for dtype in dtypes]
    return " or ".join([*names, "bfloat16"] if dtypes is STORED_DTYPES else names)


def check_shared_array(array: Any, spec: Spec) -> np.ndarray:
    """Require the array (array_size,) that an update moves."""
    return check_array("array", array, (spec.array_size,), ARRAY_DTYPES)


def check_stored_array(array: Any, spec: Spec) -> StoredArray:
    """Require the array (array_size,) that embeddings are read from; returned as kernels take it.

    They take halves by their bits: float16 as uint16, bfloat16 as int16.
    """
    if isinstance(array, QuantizedArray):
        return _check_quantized(array, spec.array_size)
    if is_bfloat16(array) and type(array) in NUMPY_ARRAYS:
        return check_array("array", array.view(BFLOAT16_BITS), (spec.array_size,), (BFLOAT16_BITS,))
    check_array("array", array, (spec.array_size,), STORED_DTYPES)
    return array.view(np.uint16) if array.dtype == np.float16 else array


def _check_quantized(array: QuantizedArray, size: int) -> QuantizedArray:
    """Require as many values and scales as kernels read; neither is read here."""
    block = check_block(array.block, "array.block")
    check_array("array.values", array.values, (size,), (np.dtype(np.int8),))
    check_array("array.scales", array.scales, (-(-size // block),), (np.dtype(np.float32),))
    return QuantizedArray(array.values, array.scales, block)


def parts_of(name: str, array: StoredArray) -> dict[str, np.ndarray]:
    """The NumPy arrays that a checked array consists of, by their names for messages."""
    if isinstance(array, QuantizedArray):
        return {f"{name}.values": array.values, f"{name}.scales": array.scales}
    return {name: array}


def is_bfloat16(array: Any) -> bool:
    """Whether elements are bfloat16, of ml_dtypes or of PyTorch."""
    dtype = getattr(array, "dtype", None)
    if isinstance(dtype, np.dtype) and dtype.isbuiltin == 1:
        return False  # without asking for the name, which takes NumPy long
    known = getattr(dtype, "name", str(dtype)) in ("bfloat16", "torch.bfloat16")
    return known and getattr(dtype, "isnative", True)


def real_dtype(stored: Any) -> np.dtype:
    """The dtype of arithmetic on a stored array: float32 for halves and int8, else its own."""
    if isinstance(stored, QuantizedArray) or stored.dtype.itemsize == 2:
        return np.dtype(np.float32)
    return stored.dtype


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
        if not arrays[name].flags.writeable:
            refuse_read_only(name)
    for i, name in enumerate(names):
        for other in names[i + 1 :]:
            check_apart(name, arrays[name], other, arrays[other])


def check_apart(name: str, array: np.ndarray, other_name: str, other: np.ndarray) -> None:
    """Require two arrays that share no memory."""
    if np.may_share_memory(array, other):
        refuse_overlap(name, other_name)


def check_kept_starts(
    starts: Any, shape: tuple[int, ...], read: dict[str, np.ndarray]
) -> tuple[np.ndarray, bool]:
    """The starts that a forward pass fills in, flat for kernels, and whether there are any."""
    if starts is None:
        return np.empty(0, dtype=np.uint64), False
    check_out("starts", starts, shape, np.dtype(np.int64), read)
    return starts.view(np.uint64).reshape(-1), True
