"""Every check of what users pass in. What comes out of here is safe for unchecked kernels.

Messages state the rule, the value and the remedy. Nothing is written before all checks of a call
have passed.
"""

import math
import numbers
from functools import lru_cache
from typing import Any

import numpy as np

from robe_numba.device_arrays import is_on_device
from robe_numba.kernels.cpu.inspect import reads_inside, rows_inside
from robe_numba.memory import aligned_empty
from robe_numba.spec import RobeSpec, Spec, TableSpec, check_int

NUMPY_ARRAYS = (np.ndarray, np.memmap)
INDEX_DTYPES = tuple(np.dtype(name) for name in ("int32", "int64", "uint32", "uint64"))
ARRAY_DTYPES = tuple(np.dtype(name) for name in ("float32", "float64"))
# Arrays that are only read may also be halves; the arithmetic on them is float32. So are those of
# bfloat16, a dtype that NumPy does not know: it is that of the package ml_dtypes.
STORED_DTYPES = (*ARRAY_DTYPES, np.dtype("float16"))
BFLOAT16_BITS = np.dtype("int16")  # as which kernels know it
MODES = ("sum", "mean", "max")
MAX_NEEDS_ARRAY = (
    "mode 'max' finds the largest element in the array; pass array= as it was in the forward pass"
)


def check_spec(spec: Any) -> Spec:
    """A RobeSpec or a TableSpec."""
    if not isinstance(spec, RobeSpec | TableSpec):
        raise TypeError(f"spec must be a RobeSpec or a TableSpec, got {_what(spec)}")
    return spec


def check_array(
    name: str, array: Any, shape: tuple[int, ...] | None, dtypes: tuple[np.dtype, ...]
) -> np.ndarray:
    """A C-contiguous NumPy array of one of the dtypes and, unless None, of the shape."""
    # Subclasses may compare and index otherwise than what kernels read: masked arrays do.
    if type(array) not in NUMPY_ARRAYS:
        raise TypeError(f"{name} must be a NumPy array, got {_what(array)}; use {_remedy(array)}")
    if array.dtype not in dtypes:
        raise TypeError(
            f"{name} has dtype {array.dtype}; it must be {names_of(dtypes)}: use "
            f"{name}.astype(numpy.{_holding(array.dtype, dtypes)})"
        )
    if shape is not None and array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}; expected {shape}")
    if not array.flags.c_contiguous:
        raise ValueError(f"{name} is not C-contiguous; use numpy.ascontiguousarray({name})")
    if not array.flags.aligned:
        raise ValueError(f"{name} is not aligned in memory; use {name}.copy()")
    return array


def _holding(dtype: np.dtype, dtypes: tuple[np.dtype, ...]) -> np.dtype:
    """Which of the dtypes to convert to: the first that holds every value, else a wide one."""
    widest = max(dtypes, key=lambda wanted: wanted.itemsize)
    return next((wanted for wanted in dtypes if np.can_cast(dtype, wanted)), widest)


def _remedy(array: Any) -> str:
    """What makes a NumPy array of it."""
    if is_on_device(array):
        return "cupy.asnumpy"
    return "filled()" if isinstance(array, np.ma.MaskedArray) else "numpy.asarray"


def names_of(dtypes: tuple[np.dtype, ...]) -> str:
    """The dtypes that are allowed, for a message."""
    names = [str(dtype) for dtype in dtypes]
    return " or ".join([*names, "bfloat16"] if dtypes is STORED_DTYPES else names)


def check_shared_array(array: Any, spec: Spec) -> np.ndarray:
    """The array that embeddings are read from and that moves, (array_size,)."""
    return check_array("array", array, (spec.array_size,), ARRAY_DTYPES)


def check_stored_array(array: Any, spec: Spec) -> np.ndarray:
    """The array that embeddings are read from, (array_size,), as kernels read it: they know halves
    by their bits, float16 as uint16 and bfloat16 as int16.
    """
    if is_bfloat16(array) and type(array) in NUMPY_ARRAYS:
        return check_array("array", array.view(BFLOAT16_BITS), (spec.array_size,), (BFLOAT16_BITS,))
    check_array("array", array, (spec.array_size,), STORED_DTYPES)
    return array.view(np.uint16) if array.dtype == np.float16 else array


def is_bfloat16(array: Any) -> bool:
    """Whether elements are bfloat16, of ml_dtypes or of PyTorch."""
    dtype = getattr(array, "dtype", None)
    if isinstance(dtype, np.dtype) and dtype.isbuiltin == 1:
        return False  # without asking for the name, which NumPy puts together
    known = getattr(dtype, "name", str(dtype)) in ("bfloat16", "torch.bfloat16")
    return known and getattr(dtype, "isnative", True)


def real_dtype(stored: Any) -> np.dtype:
    """What elements of a stored array are in arithmetic: halves are widened."""
    return np.dtype(np.float32) if stored.dtype.itemsize == 2 else stored.dtype


def check_out(
    name: str, out: Any, shape: tuple[int, ...], dtype: np.dtype, read: dict[str, np.ndarray]
) -> np.ndarray:
    """Memory that a call fills: given by the caller, apart from what the call reads, or new."""
    if out is None:
        return aligned_empty(shape, dtype)
    check_array(name, out, shape, (dtype,))
    check_written(**{name: out})
    for other, array in read.items():
        check_apart(name, out, other, array)
    return out


def check_written(**arrays: np.ndarray) -> None:
    """Arrays that an update writes to: writeable, and apart from each other."""
    names = list(arrays)
    for name in names:
        if not arrays[name].flags.writeable:
            raise ValueError(f"{name} is read-only and the update is in place; use {name}.copy()")
    for i, name in enumerate(names):
        for other in names[i + 1 :]:
            check_apart(name, arrays[name], other, arrays[other])


def check_apart(name: str, array: np.ndarray, other_name: str, other: np.ndarray) -> None:
    """Two arrays that share no memory."""
    if np.may_share_memory(array, other):
        raise ValueError(f"{name} and {other_name} share memory; use {other_name}.copy()")


def check_kept_starts(
    starts: Any, shape: tuple[int, ...], read: dict[str, np.ndarray]
) -> tuple[np.ndarray, bool]:
    """Starts that a forward pass shall fill in, flat for kernels, and whether there are any."""
    if starts is None:
        return np.empty(0, dtype=np.uint64), False
    check_out("starts", starts, shape, np.dtype(np.int64), read)
    return as_uint64(starts).reshape(-1), True


def check_indices(indices: Any, spec: Spec) -> np.ndarray:
    """Row ids (batch, num_tables) of an integer dtype, as flat uint64 for kernels."""
    check_array("indices", indices, None, INDEX_DTYPES)
    if indices.ndim != 2 or indices.shape[1] != spec.num_tables:
        raise ValueError(
            f"indices has shape {indices.shape}; expected (batch, num_tables) with "
            f"num_tables = {spec.num_tables}"
        )
    ids = as_uint64(indices).reshape(-1)
    if spec.num_embeddings is not None and not rows_inside(ids, _limits(spec)):
        outside = ids.reshape(indices.shape) >= _limits(spec)
        sample, table = (int(i) for i in np.argwhere(outside)[0])
        _raise_outside(indices[sample, table], f"[{sample}, {table}]", table, spec)
    return ids


@lru_cache(maxsize=64)
def _limits(spec: Spec) -> np.ndarray:
    return np.array(spec.num_embeddings, dtype=np.uint64)


def check_bag_shape(indices: Any) -> int:
    """The number of ids n of bags: indices is (n,) of an integer dtype."""
    check_array("indices", indices, None, INDEX_DTYPES)
    check_bag_ids_shape(indices)
    return int(indices.size)


def check_bag_ids_shape(indices: Any) -> None:
    """Ids of bags have one dimension."""
    if len(indices.shape) != 1:
        raise ValueError(f"indices has shape {tuple(indices.shape)}; bags take one dimension (n,)")


def check_padding(padding_idx: Any) -> np.uint64 | None:
    """The padded id as kernels compare it, in two's complement; None for none."""
    if padding_idx is None:
        return None
    return np.uint64(check_int("padding_idx", padding_idx, -(2**63), 2**64 - 1) % 2**64)


def check_bag_indices(
    indices: Any, offsets: np.ndarray, spec: Spec, padding: np.uint64 | None
) -> np.ndarray:
    """Row ids (n,) of table-major bags as uint64; a padded id is never read, so it may be any."""
    if offsets[-1] != indices.size:
        raise ValueError(
            f"offsets ends at {offsets[-1]} but there are {indices.size} indices; "
            f"the last offset must be the number of indices"
        )
    ids = as_uint64(indices)
    if spec.num_embeddings is None:
        return ids
    limits, padded = _limits(spec), padding is not None
    if not reads_inside(ids, offsets, limits, padded, padding if padded else np.uint64(0)):
        batch = (offsets.size - 1) // spec.num_tables
        table_sizes = np.diff(offsets[::batch])
        outside = ids >= np.repeat(limits, table_sizes)
        if padding is not None:
            outside &= ids != padding
        position = int(np.argmax(outside))
        table = int(np.searchsorted(np.cumsum(table_sizes), position, side="right"))
        _raise_outside(indices[position], f"[{position}]", table, spec)
    return ids


def _raise_outside(value: Any, position: str, table: int, spec: Spec) -> None:
    assert spec.num_embeddings is not None
    may_be_free = isinstance(spec, RobeSpec) and (spec.hash != "uma" or spec.num_tables == 1)
    free = ", or use num_embeddings=None, which takes every id" if may_be_free else ""
    raise ValueError(
        f"indices{position} is {value}, but table {table} has num_embeddings = "
        f"{spec.num_embeddings[table]}: legal ids are 0 to {spec.num_embeddings[table] - 1}. "
        f"Map the id into the table{free}"
    )


def as_uint64(indices: np.ndarray) -> np.ndarray:
    """Ids as the kernels' one integer type, signed ids in two's complement.

    Copies 32-bit ids and read-only arrays, so that kernels compile for one type alone.
    """
    if indices.dtype.itemsize == 8 and indices.flags.writeable:
        return indices.view(np.uint64)
    return indices.astype(np.uint64)


def check_offsets(offsets: Any, spec: Spec) -> np.ndarray:
    """Table-major bag offsets (num_tables * batch + 1,), from 0, never falling, as int64."""
    check_array("offsets", offsets, None, INDEX_DTYPES)
    check_offsets_shape(offsets, spec)
    if offsets[0] != 0:
        raise ValueError(f"offsets starts at {offsets[0]}; the first offset must be 0")
    falls = offsets[1:] < offsets[:-1]
    if falls.any():
        bag = int(np.argmax(falls))
        raise ValueError(
            f"offsets falls from {offsets[bag]} to {offsets[bag + 1]} at bag {bag}; "
            f"bag b is indices[offsets[b]:offsets[b + 1]]"
        )
    if int(offsets[-1]) > np.iinfo(np.int64).max:
        raise ValueError(f"offsets ends at {offsets[-1]}; it cannot exceed the indices")
    return np.array(offsets, dtype=np.int64)


def check_offsets_shape(offsets: Any, spec: Spec) -> None:
    """Offsets of bags are (num_tables * batch + 1,)."""
    if len(offsets.shape) != 1 or offsets.size == 0 or (offsets.size - 1) % spec.num_tables:
        raise ValueError(
            f"offsets has shape {tuple(offsets.shape)}; expected (num_tables * batch + 1,) with "
            f"num_tables = {spec.num_tables}"
        )


def check_mode(mode: Any) -> None:
    """A known way to pool."""
    if not isinstance(mode, str) or mode not in MODES:
        raise ValueError(f"mode is {mode!r}; choose one of {', '.join(MODES)}")


def check_weighted_mode(mode: Any, weighted: bool) -> None:
    """A known way to pool, which takes weights if there are any."""
    check_mode(mode)
    if weighted and mode != "sum":
        raise ValueError(f"per_sample_weights go with mode 'sum' alone, got mode {mode!r}")


def check_pooling(mode: str, weights: Any, num_indices: int, dtype: np.dtype) -> np.ndarray:
    """The mode, and the weights (n,) of the array's dtype; (0,) for none."""
    check_weighted_mode(mode, weights is not None)
    if weights is None:
        return np.empty(0, dtype=dtype)
    return check_array("per_sample_weights", weights, (num_indices,), (dtype,))


def check_scalar(name: str, value: Any, low: float, dtype: Any = np.float64) -> float:
    """A number of at least `low` that is finite also in the dtype of the arithmetic."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, got {_what(value)}")
    high = float(np.finfo(dtype).max)
    try:
        number = float(value)
    except OverflowError:  # an integer beyond float64
        number = math.inf
    if not low <= number <= high:
        raise ValueError(f"{name} is {number}; it must be finite, from {low} to {high:.3g}")
    return number


def _what(value: Any) -> str:
    kind = type(value)
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
    return name if name != "str" else f"the string {value!r}"
