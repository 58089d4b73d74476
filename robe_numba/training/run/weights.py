"""Weights of a model in a file of safetensors, with the known ids of the kinds that number ids."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from data_tools.storage.atomic import replacing
from data_tools.storage.own_files import readable
from data_tools.storage.paths import what_stands_at
from robe_numba.dlrm import DLRM, DLRMConfig, embedding_from
from robe_numba.dlrm.backends import to_numpy
from robe_numba.parallel.group import Group

PREFIX = "embedding."


def save_weights(model: DLRM, path: Path) -> None:
    """Write a file at once; otherwise as `write_weights`."""
    with replacing(path) as temporary:
        write_weights(model, temporary)


def write_weights(model: DLRM, path: Path) -> None:
    """Write a file; the same weights give the same bytes.

    Raises
    ------
    OSError : it could not be written.
    """
    tables = {PREFIX + name: array for name, array in model.embedding.tables().items()}
    weights = {name: to_numpy(array) for name, array in model.parameters().items()}
    try:
        save_file(weights | tables, path)
    except SafetensorError as error:  # a full disk, most likely
        raise OSError(f"{path} could not be written: {error}") from error


def load_weights(
    path: Path,
    shape: Mapping[str, Any],
    embedding: Mapping[str, Any],
    threads: int | None,
    device: str,
    group: Group,
) -> DLRM:
    """A model that is ready to score, without optimizer state; of a group all processes get it.

    Parameters
    ----------
    path : read by the process of rank 0 alone.
    shape : what `DLRMConfig.to_dict` gave.
    embedding : what `Embedding.describe` gave.
    threads, device : as `DLRM` and `Embedding.to` take them.

    Raises
    ------
    FileNotFoundError : there is no such file.
    ValueError : it is damaged or of another model.
    """
    arrays: dict[str, np.ndarray] = {}

    def read() -> dict[str, tuple[tuple[int, ...], str]]:
        arrays.update(_read(path))
        return {name: (array.shape, array.dtype.str) for name, array in arrays.items()}

    forms = group.at_root(read)
    if not group.is_root:
        arrays = {name: np.empty(*form) for name, form in forms.items()}
    group.broadcast_arrays([arrays[name] for name in forms])
    try:
        config = DLRMConfig.from_dict(shape)
        _check_shapes(config, arrays)  # before a model of any size is made
        inner = {n.removeprefix(PREFIX): a for n, a in arrays.items() if n.startswith(PREFIX)}
        without_sums = {"optimizer": "sgd", "state_block": 1}
        there = embedding_from({**embedding, **without_sums}, inner).to(device)
        model = DLRM(config, there, threads=threads)
        model.load(arrays)
    except (KeyError, TypeError, ValueError) as error:
        raise _unusable(path, error) from error
    return model


def _check_shapes(config: DLRMConfig, arrays: Mapping[str, np.ndarray]) -> None:
    for name, shape in config.parameter_shapes().items():
        if name not in arrays or arrays[name].shape != shape:
            found = f"has shape {arrays[name].shape}" if name in arrays else "is missing"
            raise ValueError(f"{name} {found}; it must be {shape}")


def _read(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise FileNotFoundError(
            f"{what_stands_at(path)}: the run stopped before its model was saved; go on with "
            f"--resume"
        )
    try:
        with readable(path), open(path, "rb"):  # safetensors does not say why it cannot
            return load_file(path)
    except SafetensorError as error:
        raise _unusable(path, error) from error


def _unusable(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path} does not hold the model of config.json ({error}); train again")
