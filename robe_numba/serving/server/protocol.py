"""Requests and answers of the Open Inference Protocol v2: JSON, and the binary tensor extension.

Source: https://github.com/kserve/open-inference-protocol, and the extension "binary_tensor_data" of
Triton Inference Server.
"""

import re
from typing import Any, NamedTuple

import msgspec
import numpy as np

from robe_numba.serving.server.refusals import RefusedError, invalid

DENSE, IDS, PROBABILITY = "dense", "ids", "probability"
DENSE_TYPES: dict[str, np.dtype] = {"FP32": np.dtype(np.float32), "FP64": np.dtype(np.float64)}
ID_TYPES: dict[str, np.dtype] = {
    name: np.dtype(name.lower()) for name in ("INT64", "UINT64", "INT32", "UINT32")
}
# By what can be compared and hashed fast; a dtype cannot.
_INT64, _UINT64 = ID_TYPES["INT64"], ID_TYPES["UINT64"]
_LARGEST = {dtype.char: float(np.finfo(dtype).max) for dtype in DENSE_TYPES.values()}
_TWO_BRACKETS = re.compile(rb"\s*\[\s*\[")
_REFUSED = ("shared_memory_region", "classification")  # extensions that change what a tensor means

_Parameters = dict[str, bool | int | float | str]


class _Input(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    data: msgspec.Raw = msgspec.Raw()
    parameters: _Parameters | None = None


class _Output(msgspec.Struct):
    name: str
    parameters: _Parameters | None = None


class _Request(msgspec.Struct):
    inputs: list[_Input]
    id: str | None = None
    parameters: _Parameters | None = None
    outputs: list[_Output] | None = None


class _Result(msgspec.Struct, omit_defaults=True):
    name: str
    datatype: str
    shape: list[int]
    data: list[float] | None = None
    parameters: dict[str, int] | None = None


class _Answer(msgspec.Struct, omit_defaults=True):
    model_name: str
    model_version: str
    outputs: list[_Result]
    id: str | None = None


class Rows(NamedTuple):
    """The content of an inference request."""

    dense: np.ndarray  # (rows, num_dense) float32 or float64, NaN where missing
    ids: np.ndarray  # (rows, num_tables) int64, the bits of unsigned ones
    id: str | None  # of the request
    binary: bool  # whether the answer is to be binary


_request = msgspec.json.Decoder(_Request)
_encode = msgspec.json.Encoder().encode
# Numbers, flat or as a list per row; null is a missing dense value.
_flat: dict[str, msgspec.json.Decoder[Any]] = {
    DENSE: msgspec.json.Decoder(list[float | None]),
    IDS: msgspec.json.Decoder(list[int]),
}
_nested: dict[str, msgspec.json.Decoder[Any]] = {
    DENSE: msgspec.json.Decoder(list[list[float | None]]),
    IDS: msgspec.json.Decoder(list[list[int]]),
}


def parse(body: bytes, header_length: int | None, num_dense: int, num_tables: int) -> Rows:
    """Read and check an inference request.

    Parameters
    ----------
    body : bytes
        The whole body: JSON, and the binary tensors after it.
    header_length : int, optional
        Bytes of the JSON (Inference-Header-Content-Length) where binary tensors may follow.
    num_dense, num_tables : int
        Columns of the model.

    Returns
    -------
    Rows
        Its arrays are C-contiguous, aligned, of equally many rows, and without infinities.

    Raises
    ------
    RefusedError
        Status 400: a rule that the request breaks, with the value.
    """
    if header_length is not None and not 0 <= header_length <= len(body):
        raise invalid(
            f"Inference-Header-Content-Length is {header_length}, but the body has {len(body)} "
            f"bytes"
        )
    try:
        request = _request.decode(body if header_length is None else body[:header_length])
    except (ValueError, RecursionError) as error:
        raise invalid(f"the request is not valid JSON of the protocol: {error}") from None
    tail = None if header_length is None else _Tail(body, header_length)
    arrays: dict[str, np.ndarray] = {}
    for tensor in request.inputs:
        if tensor.name not in _flat:
            raise invalid(f"there is no input {tensor.name!r}; the inputs are {DENSE} and {IDS}")
        if tensor.name in arrays:
            raise invalid(f"the input {tensor.name} is given twice")
        columns = num_dense if tensor.name == DENSE else num_tables
        arrays[tensor.name] = _array(tensor, columns, tail)
    if tail is not None:
        tail.check_end()
    dense, ids = _both(arrays, num_dense)
    return Rows(dense, ids, request.id, _wants_binary(request))


def _both(arrays: dict[str, np.ndarray], num_dense: int) -> tuple[np.ndarray, np.ndarray]:
    """The two inputs; `dense` may be left out where it has no columns."""
    if IDS not in arrays:
        raise invalid(f"the input {IDS} is missing")
    ids = arrays[IDS]
    dense = arrays.get(DENSE)
    if dense is None:
        if num_dense:
            raise invalid(f"the input {DENSE} is missing")
        dense = np.empty((len(ids), 0), np.float32)
    if len(dense) != len(ids):
        raise invalid(f"{DENSE} has {len(dense)} rows but {IDS} has {len(ids)}; make them equal")
    return dense, ids


def _array(tensor: _Input, columns: int, tail: "_Tail | None") -> np.ndarray:
    """The rows of one input; ids become int64 without a change of their value modulo 2**64."""
    name, shape, parameters = tensor.name, tensor.shape, tensor.parameters
    types: dict[str, np.dtype] = DENSE_TYPES if name == DENSE else ID_TYPES
    dtype = types.get(tensor.datatype)
    if dtype is None:
        texts = (
            "; send the ids of texts (data_tools.text_ids)" if tensor.datatype == "BYTES" else ""
        )
        raise invalid(f"datatype of {name} is {tensor.datatype!r}; use {' or '.join(types)}{texts}")
    if len(shape) != 2 or shape[0] < 0 or shape[1] != columns:
        raise invalid(f"shape of {name} is {shape}; it must be [rows, {columns}]")
    if parameters and (size := parameters.get("binary_data_size")) is not None:
        if tensor.data:
            raise invalid(f"{name} has both data and binary_data_size; give one of them")
        if tail is None:
            raise invalid(
                f"{name} has binary_data_size, so the request needs the header "
                f"Inference-Header-Content-Length"
            )
        array = tail.take(name, size, shape, dtype)
        if name == DENSE and np.isinf(array).any():
            raise _infinite(array[np.isinf(array)][0])
    else:
        array = _numbers(name, tensor.data, shape, dtype)
    for key in _REFUSED if parameters else ():
        if key in parameters:  # type: ignore[operator]
            raise invalid(f"{name} has the parameter {key}, an extension that is not served")
    if name == IDS and dtype is not _INT64:
        array = array.view(_INT64) if dtype is _UINT64 else array.astype(_INT64)
    return array


def _numbers(name: str, data: msgspec.Raw, shape: list[int], dtype: np.dtype) -> np.ndarray:
    """The numbers of a JSON list, flat or nested."""
    if not data:
        raise invalid(f"{name} has neither data nor binary_data_size")
    is_nested = _TWO_BRACKETS.match(data) is not None
    try:
        values: Any = (_nested if is_nested else _flat)[name].decode(data)
        # Dense ones are compared before they are narrowed, where they might become infinite.
        array = np.array(values, np.float64 if name == DENSE else dtype)
    except OverflowError:
        raise invalid(
            f"data of {name} is not {shape} of {dtype}: a number is outside its range; use INT64 "
            f"for negative ids, UINT64 for the largest"
        ) from None
    except (ValueError, RecursionError) as error:
        raise invalid(f"data of {name} is not {shape} of {dtype}: {error}") from None
    if array.size != shape[0] * shape[1] or (is_nested and list(array.shape) != shape):
        found = list(array.shape) if is_nested else f"{array.size} numbers"
        raise invalid(f"shape of {name} is {shape}, but its data has {found}")
    if name == DENSE:
        too_large = np.abs(array) > _LARGEST[dtype.char]
        if np.count_nonzero(too_large):  # four times as fast as any() for a row
            raise _infinite(array[too_large][0], dtype)
        array = array.astype(dtype, copy=False)
    return array if is_nested else array.reshape(shape)


def _infinite(value: float, dtype: Any = None) -> RefusedError:
    beyond = f"is beyond {dtype}" if dtype else "is not finite"
    return invalid(
        f"{DENSE} has {value}, which {beyond}; give finite numbers; a missing one is null in "
        f"JSON, NaN in binary tensors"
    )


class _Tail:
    """The binary tensors after the JSON, in the order of the inputs."""

    def __init__(self, body: bytes, start: int):
        self._body, self._next = body, start

    def take(self, name: str, size: Any, shape: list[int], dtype: np.dtype) -> np.ndarray:
        wanted = shape[0] * shape[1] * dtype.itemsize
        if isinstance(size, bool) or size != wanted:
            raise invalid(
                f"binary_data_size of {name} is {size!r}, but {shape} of {dtype} are {wanted} bytes"
            )
        left = len(self._body) - self._next
        if wanted > left:
            raise invalid(f"{name} has {wanted} binary bytes, but only {left} follow the JSON")
        flat = np.frombuffer(self._body, dtype, shape[0] * shape[1], self._next)
        self._next += wanted
        return flat.reshape(shape).copy()  # aligned, which the body need not be

    def check_end(self) -> None:
        left = len(self._body) - self._next
        if left:
            raise invalid(f"{left} binary bytes follow that belong to no input")


def _wants_binary(request: _Request) -> bool:
    """Whether the answer is to be binary: as the output says, or else the whole request."""
    binary = bool((request.parameters or {}).get("binary_data_output", False))
    for output in request.outputs or ():
        if output.name != PROBABILITY:
            raise invalid(f"there is no output {output.name!r}; the output is {PROBABILITY}")
        parameters = output.parameters or {}
        for key in _REFUSED:
            if key in parameters:
                raise invalid(f"{PROBABILITY} has the parameter {key}, which is not served")
        binary = bool(parameters.get("binary_data", binary))
    return binary


def encode(
    name: str, version: str, probability: np.ndarray, rows: Rows
) -> tuple[bytes, int | None]:
    """The body of an answer, and the length of its JSON if a binary tensor follows.

    Parameters
    ----------
    name, version : str
        Of the model.
    probability : ndarray, (rows,) float32
        The scores; NaN, of a model that diverged, is null in JSON.
    rows : Rows
        The request.
    """
    result = _Result(PROBABILITY, "FP32", [len(probability)])
    answer = _Answer(name, version, [result], rows.id)
    if not rows.binary:
        result.data = probability.tolist()
        return _encode(answer), None
    result.parameters = {"binary_data_size": probability.nbytes}
    header = _encode(answer)
    return header + probability.tobytes(), len(header)
