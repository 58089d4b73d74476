"""Requests and answers of the Open Inference Protocol v2: JSON, and the binary tensor extension.

Source: https://github.com/kserve/open-inference-protocol, and the extension "binary_tensor_data" of
Triton Inference Server.
"""

from typing import NamedTuple

import msgspec
import numpy as np

from robe_numba.dlrm.bags import MultiHot
from robe_numba.serving.server.refusals import RefusedError, invalid
from robe_numba.serving.server.tensors import (
    DENSE,
    IDS,
    LENGTHS,
    REFUSED,
    VALUES,
    WEIGHTS,
    Input,
    Parameters,
    Tail,
    Tensor,
    array_of,
    inputs_of,
)

PROBABILITY = "probability"


class _Output(msgspec.Struct):
    name: str
    parameters: Parameters | None = None


class _Request(msgspec.Struct):
    inputs: list[Tensor]
    id: str | None = None
    parameters: Parameters | None = None
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
    # values (n,) and lengths (rows, num_multi_hot), int64, and weights (n,) float32 or None
    multi_hot: MultiHot | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        size = self.dense.nbytes + self.ids.nbytes
        if self.multi_hot is not None:
            size += sum(array.nbytes for array in self.multi_hot if array is not None)
        return size


_request = msgspec.json.Decoder(_Request)
_encode = msgspec.json.Encoder().encode


def parse(
    body: bytes,
    header_length: int | None,
    num_dense: int,
    num_tables: int,
    num_multi_hot: int = 0,
    weighted: bool = False,
) -> Rows:
    """Read and check an inference request.

    Parameters
    ----------
    body : bytes
        The whole body: JSON, and the binary tensors after it.
    header_length : int, optional
        Bytes of the JSON (Inference-Header-Content-Length) where binary tensors may follow.
    num_dense, num_tables, num_multi_hot : int
        Columns of the model, see `Scorer`.
    weighted : bool
        Whether ids of lists have weights.

    Returns
    -------
    Rows
        Its arrays are C-contiguous, aligned, of equally many rows, and without infinities. Whether
        lengths fit the values is left to `Scorer.check`.

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
    tail = None if header_length is None else Tail(body, header_length)
    inputs = inputs_of(num_dense, num_tables, num_multi_hot, weighted)
    arrays: dict[str, np.ndarray] = {}
    for tensor in request.inputs:
        wanted = inputs.get(tensor.name)
        if wanted is None:
            *names, last = inputs
            there = f"{', '.join(names)} and {last}"
            raise invalid(f"there is no input {tensor.name!r}; the inputs are {there}")
        if tensor.name in arrays:
            raise invalid(f"the input {tensor.name} is given twice")
        arrays[tensor.name] = array_of(tensor, wanted, tail)
    if tail is not None:
        tail.check_end()
    if len(arrays) < len(inputs):
        _fill_in(arrays, inputs)
    dense, ids, multi_hot = arrays[DENSE], arrays[IDS], None
    if len(dense) != len(ids):
        raise _other_rows(DENSE, arrays)
    if num_multi_hot:
        multi_hot = arrays[VALUES], arrays[LENGTHS], arrays.get(WEIGHTS)
        if len(arrays[LENGTHS]) != len(ids):
            raise _other_rows(LENGTHS, arrays)
    return Rows(dense, ids, request.id, _wants_binary(request), multi_hot)


def _other_rows(name: str, arrays: dict[str, np.ndarray]) -> RefusedError:
    rows, others = len(arrays[name]), len(arrays[IDS])
    return invalid(f"{name} has {rows} rows but {IDS} has {others}; make them equal")


def _fill_in(arrays: dict[str, np.ndarray], inputs: dict[str, Input]) -> None:
    """Give all rows what was left out because it has no columns."""
    missing = [name for name in inputs if name not in arrays and not inputs[name].optional]
    if missing:
        raise invalid(f"the input {missing[-1]} is missing")
    rows = len(arrays[IDS if IDS in arrays else LENGTHS])
    arrays.setdefault(DENSE, np.empty((rows, 0), np.float32))
    arrays.setdefault(IDS, np.empty((rows, 0), np.int64))


def _wants_binary(request: _Request) -> bool:
    """Whether the answer is to be binary: as the output says, or else the whole request."""
    binary = bool((request.parameters or {}).get("binary_data_output", False))
    for output in request.outputs or ():
        if output.name != PROBABILITY:
            raise invalid(f"there is no output {output.name!r}; the output is {PROBABILITY}")
        parameters = output.parameters or {}
        for key in REFUSED:
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
