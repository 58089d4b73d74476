"""The inputs of a model, and the tensors of a request as arrays, from JSON or binary bytes."""

import math
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec
import numpy as np

from robe_numba.serving.server.refusals import RefusedError, invalid

DENSE, IDS = "dense", "ids"
VALUES, LENGTHS, WEIGHTS = "values", "lengths", "weights"  # of models with lists
FLOAT_TYPES: dict[str, np.dtype] = {"FP32": np.dtype(np.float32), "FP64": np.dtype(np.float64)}
WEIGHT_TYPES = {"FP32": FLOAT_TYPES["FP32"]}
ID_TYPES: dict[str, np.dtype] = {
    name: np.dtype(name.lower()) for name in ("INT64", "UINT64", "INT32", "UINT32")
}
REFUSED = ("shared_memory_region", "classification")  # extensions that change what a tensor means
MOST_EMPTY = 2**31  # rows of a tensor without columns, whose number no data limit
# By what can be compared and hashed fast; a dtype cannot.
_INT64, _UINT64 = ID_TYPES["INT64"], ID_TYPES["UINT64"]
_LARGEST = {dtype.char: float(np.finfo(dtype).max) for dtype in FLOAT_TYPES.values()}
_TWO_BRACKETS = re.compile(rb"\s*\[\s*\[")

Parameters = dict[str, bool | int | float | str]
_Decoder = msgspec.json.Decoder[Any]


class Tensor(msgspec.Struct):
    """An input of a request, as JSON has it."""

    name: str
    shape: list[int]
    datatype: str
    data: msgspec.Raw = msgspec.Raw()
    parameters: Parameters | None = None


class Input(NamedTuple):
    """What a model takes under a name."""

    name: str
    types: Mapping[str, np.dtype]  # that may be sent; metadata names the first
    columns: list[int]  # their number; none for one dimension
    optional: bool  # whether it may be left out, as it has no columns
    flat: _Decoder  # of JSON numbers; null is a missing dense value
    nested: _Decoder | None  # of a list per row


_numbers = msgspec.json.Decoder(list[float | None]), msgspec.json.Decoder(list[list[float | None]])
_ids = msgspec.json.Decoder(list[int]), msgspec.json.Decoder(list[list[int]])
_weights = msgspec.json.Decoder(list[float])


@lru_cache(maxsize=256)
def inputs_of(
    num_dense: int, num_tables: int, num_multi_hot: int = 0, weighted: bool = False
) -> dict[str, Input]:
    """The inputs of a model by name, see `Scorer`; they are shared, so do not change them."""
    inputs = [
        Input(DENSE, FLOAT_TYPES, [num_dense], num_dense == 0, *_numbers),
        Input(IDS, ID_TYPES, [num_tables], num_tables == 0 < num_multi_hot, *_ids),
    ]
    if num_multi_hot:
        inputs.append(Input(VALUES, ID_TYPES, [], False, _ids[0], None))
        inputs.append(Input(LENGTHS, ID_TYPES, [num_multi_hot], False, *_ids))
    if weighted:
        inputs.append(Input(WEIGHTS, WEIGHT_TYPES, [], False, _weights, None))
    return {each.name: each for each in inputs}


def array_of(tensor: Tensor, wanted: Input, tail: "Tail | None") -> np.ndarray:
    """The array of a tensor; integers become int64 without a change of their value modulo 2**64.

    Parameters
    ----------
    tensor : Tensor
        From a request.
    wanted : Input
        Of its name.
    tail : Tail, optional
        The binary tensors, if any may follow the JSON.

    Returns
    -------
    ndarray
        C-contiguous and aligned, without infinities.

    Raises
    ------
    RefusedError
        Status 400: a rule that the tensor breaks, with the value.
    """
    name, types, columns, _, flat, nested = wanted
    shape, parameters = tensor.shape, tensor.parameters
    dtype = types.get(tensor.datatype)
    if dtype is None:
        texts = (
            "; send the ids of texts (data_tools.text_ids)" if tensor.datatype == "BYTES" else ""
        )
        there = " or ".join(types)
        raise invalid(f"datatype of {name} is {tensor.datatype!r}; use {there}{texts}")
    if not shape or shape[0] < 0 or shape[1:] != columns:
        form = f"[rows, {columns[0]}]" if columns else "[number of ids]"
        raise invalid(f"shape of {name} is {shape}; it must be {form}")
    if columns == [0] and shape[0] > MOST_EMPTY:
        raise invalid(f"shape of {name} is {shape}; give at most {MOST_EMPTY} rows")
    if parameters and (size := parameters.get("binary_data_size")) is not None:
        if tensor.data:
            raise invalid(f"{name} has both data and binary_data_size; give one of them")
        if tail is None:
            raise invalid(
                f"{name} has binary_data_size, so the request needs the header "
                f"Inference-Header-Content-Length"
            )
        array = tail.take(name, size, shape, dtype)
        if types is not ID_TYPES and np.isinf(array).any():
            raise _infinite(name, array[np.isinf(array)][0])
    else:
        array = _from_json(tensor, dtype, types is not ID_TYPES, flat, nested)
    for key in REFUSED if parameters else ():
        if key in parameters:  # type: ignore[operator]
            raise invalid(f"{name} has the parameter {key}, an extension that is not served")
    if types is ID_TYPES and dtype is not _INT64:
        array = array.view(_INT64) if dtype is _UINT64 else array.astype(_INT64)
    return array


def _from_json(
    tensor: Tensor, dtype: np.dtype, floats: bool, flat: _Decoder, nested: _Decoder | None
) -> np.ndarray:
    """The numbers of a JSON list, flat or nested."""
    name, data, shape = tensor.name, tensor.data, tensor.shape
    if not data:
        raise invalid(f"{name} has neither data nor binary_data_size")
    if nested and _TWO_BRACKETS.match(data) is None:
        nested = None
    try:
        values: Any = (nested or flat).decode(data)
        # Floats are compared before they are narrowed, where they might become infinite.
        array = np.array(values, np.float64 if floats else dtype)
    except OverflowError:
        raise invalid(
            f"data of {name} is not {shape} of {dtype}: a number is outside its range; use INT64 "
            f"for negative ids, UINT64 for the largest"
        ) from None
    except (ValueError, RecursionError) as error:
        raise invalid(f"data of {name} is not {shape} of {dtype}: {error}") from None
    if array.size != math.prod(shape) or (nested and list(array.shape) != shape):
        found = list(array.shape) if nested else f"{array.size} numbers"
        raise invalid(f"shape of {name} is {shape}, but its data has {found}")
    if floats:
        too_large = np.abs(array) > _LARGEST[dtype.char]
        if np.count_nonzero(too_large):  # four times as fast as any() for a row
            raise _infinite(name, array[too_large][0], dtype)
        array = array.astype(dtype, copy=False)
    return array if nested else array.reshape(shape)


def _infinite(name: str, value: float, dtype: Any = None) -> RefusedError:
    beyond = f"is beyond {dtype}" if dtype else "is not finite"
    missing = "; a missing one is null in JSON, NaN in binary tensors" if name == DENSE else ""
    return invalid(f"{name} has {value}, which {beyond}; give finite numbers{missing}")


class Tail:
    """The binary tensors after the JSON of a body, in the order of the inputs.

    Parameters
    ----------
    body : bytes
        The whole.
    start : int
        Where the JSON ends.
    """

    def __init__(self, body: bytes, start: int):
        self._body, self._next = body, start

    def take(self, name: str, size: Any, shape: list[int], dtype: np.dtype) -> np.ndarray:
        """The next tensor, which the JSON says has `size` bytes."""
        count = math.prod(shape)
        wanted = count * dtype.itemsize
        if isinstance(size, bool) or size != wanted:
            raise invalid(
                f"binary_data_size of {name} is {size!r}, but {shape} of {dtype} are {wanted} bytes"
            )
        left = len(self._body) - self._next
        if wanted > left:
            raise invalid(f"{name} has {wanted} binary bytes, but only {left} follow the JSON")
        flat = np.frombuffer(self._body, dtype, count, self._next)
        self._next += wanted
        return flat.reshape(shape).copy()  # aligned, which the body need not be

    def check_end(self) -> None:
        """Refuse bytes that belong to no input."""
        left = len(self._body) - self._next
        if left:
            raise invalid(f"{left} binary bytes follow that belong to no input")
