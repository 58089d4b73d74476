"""The weights of a model as a safetensors file, with the known ids of kinds that number them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from data_tools.storage.atomic import replacing
from data_tools.storage.own_files import readable
from data_tools.storage.paths import what_is_at
from robe_numba.dlrm import DLRM, DLRMConfig, embedding_from
from robe_numba.dlrm.backends import to_numpy

PREFIX = "embedding."


def save_weights(model: DLRM, path: Path) -> None:
    """Write a file atomically; otherwise as `write_weights`."""
    with replacing(path) as temporary:
        write_weights(model, temporary)


def write_weights(model: DLRM, path: Path) -> None:
    """Write a file; the same weights give the same bytes.

    Raises
    ------
    OSError
        It could not be written.
    """
    tables = {PREFIX + name: array for name, array in model.embedding.tables().items()}
    weights = {name: to_numpy(array) for name, array in model.parameters().items()}
    try:
        save_file(weights | tables, path)
    except SafetensorError as error:  # a full disk, most likely
        raise OSError(f"{path} could not be written: {error}") from error


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """Read all arrays of a file.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        It is damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{what_is_at(path)}: the run stopped before its model was saved; continue it with "
            f"--resume"
        )
    try:
        with readable(path), open(path, "rb"):  # safetensors does not say why it cannot
            return load_file(path)
    except SafetensorError as error:
        raise _unusable(path, error) from error


def model_from_weights(
    path: Path,
    arrays: Mapping[str, np.ndarray],
    shape: Mapping[str, Any],
    embedding: Mapping[str, Any],
    threads: int | None,
    device: str,
    storage: str = "float32",
) -> DLRM:
    """Make a model that is ready to score, without optimizer state.

    Parameters
    ----------
    path : Path
        Of the file, for messages.
    arrays : mapping of str to ndarray
        From `read_weights`.
    shape : mapping
        What `DLRMConfig.to_dict` returned.
    embedding : mapping
        What `Embedding.describe` returned.
    threads, device, storage
        As for `DLRM`, `Embedding.to` and `Embedding.stored_as`.

    Returns
    -------
    DLRM

    Raises
    ------
    ValueError
        The arrays are of another model, or have a value that is not finite or that the storage
        cannot hold.
    """
    _check_finite(path, arrays)
    with _of_this_run(path):
        config = DLRMConfig.from_dict(shape)
        _check_shapes(config, arrays)  # before a model of any size is made
        inner = {n.removeprefix(PREFIX): a for n, a in arrays.items() if n.startswith(PREFIX)}
        without_sums = {"optimizer": "sgd", "state_block": 1}
        read = embedding_from({**embedding, **without_sums}, inner)
    stored = read.stored_as(storage).to(device)
    with _of_this_run(path):
        model = DLRM(config, stored, threads=threads)
        layers = {n: a for n, a in arrays.items() if not n.startswith(PREFIX)}
        model.load(model.parameters() | layers)  # the embedding has its arrays already
    return model


@contextmanager
def _of_this_run(path: Path) -> Iterator[None]:
    """Report what does not fit together within the block as a file of another model."""
    try:
        yield
    except (KeyError, TypeError, ValueError) as error:
        raise _unusable(path, error) from error


def _check_shapes(config: DLRMConfig, arrays: Mapping[str, np.ndarray]) -> None:
    for name, shape in config.parameter_shapes().items():
        if name not in arrays or arrays[name].shape != shape:
            found = f"has shape {arrays[name].shape}" if name in arrays else "is missing"
            raise ValueError(f"{name} {found}; it must be {shape}")


def _check_finite(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Refuse the weights of a model that diverged: they are in the scores of some rows alone."""
    for name, array in arrays.items():
        # NaN is the least and the greatest of any array, so no array of booleans is needed.
        if not all(np.isfinite(find(array, initial=0)) for find in (np.min, np.max)):
            raise ValueError(
                f"{path}: {name} has values that are not finite, so training has diverged; train "
                f"again with a lower lr"
            )


def _unusable(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path} does not hold the model of config.json ({error}); train again")
