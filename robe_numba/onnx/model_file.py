"""An ONNX model as a file; what does not fit into one is in a second file beside it."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto, helper

from data_tools.storage.atomic import replacing
from robe_numba.onnx.graph import tensor_type

MOST_BYTES = 2_000_000_000  # of constants in the model's file; Protobuf reads less than 2**31 bytes
LARGE_BYTES = 1 << 20  # constants from here on are those that move to the second file
PAGE = 4096  # where constants begin there, so that a runtime can map them


def data_path(path: str | os.PathLike[str]) -> Path:
    """The second file of a model."""
    return Path(f"{os.fspath(path)}.data")


def write_model(
    model: ModelProto, constants: Mapping[str, np.ndarray], path: str | os.PathLike[str]
) -> list[Path]:
    """Write a model atomically; with more than 2 GB, its large constants to `data_path`.

    Parameters
    ----------
    model : ModelProto
        Without constants, which are added to it.
    constants : mapping of str to ndarray
        By the names that nodes use.
    path : path
        What is there is replaced, and so is a file at `data_path`, or removed.

    Returns
    -------
    list of Path
        The one or two files that were written.

    Raises
    ------
    OSError
        A file cannot be written, or a folder is at one of the two paths.
    """
    path, data = Path(path), data_path(path)
    for place in (path, data):
        if place.is_dir():
            raise IsADirectoryError(f"{place} is a folder; name a file")
    total = sum(array.nbytes for array in constants.values())
    least = LARGE_BYTES if total > MOST_BYTES else total + 1
    outside = {name: array for name, array in constants.items() if array.nbytes >= least}
    inside = (_tensor(n, array) for n, array in constants.items() if n not in outside)
    model.graph.initializer.extend(inside)
    if outside:
        # First the model, so that none is ever there with the constants of another.
        path.unlink(missing_ok=True)
        with replacing(data) as temporary:
            model.graph.initializer.extend(_moved(outside, temporary, data.name))
    with replacing(path) as temporary:
        temporary.write_bytes(model.SerializeToString())
    if outside:
        return [path, data]
    data.unlink(missing_ok=True)  # of a model that was there
    return [path]


def _tensor(name: str, array: np.ndarray) -> TensorProto:
    data = np.ascontiguousarray(array).tobytes()
    return helper.make_tensor(name, tensor_type(array.dtype), array.shape, data, raw=True)


def _moved(constants: Mapping[str, np.ndarray], path: Path, location: str) -> Iterator[TensorProto]:
    """Write constants to a file one after the other, and describe where they are."""
    with open(path, "wb") as file:
        for name, array in constants.items():
            file.write(bytes(-file.tell() % PAGE))
            place = {"location": location, "offset": file.tell(), "length": array.nbytes}
            np.ascontiguousarray(array).tofile(file)
            tensor = TensorProto(name=name, data_type=tensor_type(array.dtype), dims=array.shape)
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in place.items():
                tensor.external_data.add(key=key, value=str(value))
            yield tensor
