"""A run of `robe train` as an ONNX model, by itself or in a model repository of Triton."""

import os
from pathlib import Path
from typing import NamedTuple

from data_tools import Dataset
from data_tools.ingestion.vocabulary_files import checked_vocabulary
from data_tools.storage.atomic import write_text
from data_tools.vocabulary.id_map import IdMap
from robe_numba.onnx.model import Export, build_model
from robe_numba.onnx.model_file import write_model
from robe_numba.onnx.prepared_ids import is_mapped
from robe_numba.onnx.triton import CONFIG, MODEL, VERSION, check_name, check_versions, config_text
from robe_numba.quantization.storages import STORAGES
from robe_numba.training.run.folder import RunFolder
from robe_numba.training.run.model_file import digest_of_model


class Exported(NamedTuple):
    """What `export_run` wrote.

    Attributes
    ----------
    path : Path
        The model's file.
    num_bytes : int
        Of all files.
    num_dense, num_tables : int
        Columns of the inputs `dense` and `ids`.
    outside : list of str
        What has to be done to features before the model, in sentences.
    """

    path: Path
    num_bytes: int
    num_dense: int
    num_tables: int
    outside: list[str]


def export_run(
    run: str | os.PathLike[str] | RunFolder,
    path: str | os.PathLike[str],
    dtype: str = "float32",
    data: str | os.PathLike[str] | None = None,
) -> Exported:
    """Write a trained model with the preparation of its inputs as an ONNX file.

    The model has the inputs `dense`, float32 (batch, num_dense), raw features where NaN is missing,
    and `ids`, int64 (batch, num_tables), raw ids that are read as unsigned; and the output
    `probability`, float32 (batch,), that of `robe predict`. It uses standard operators of opset 18.
    Where ids are hashed, its tensor `starts`, int32 or int64 (batch, num_tables, blocks), has what
    `block_starts` returns, divided by the `start_unit` of the model's metadata.

    Parameters
    ----------
    run : path or RunFolder
        A run of `robe train`, with any kind of embedding.
    path : path
        The file; what is there is replaced. With more than 2 GB, large arrays are in a second file
        beside it, whose name has `.data` at its end.
    dtype : {"float32", "float16", "bfloat16", "int8"}
        Of the embedding's arrays in the file; int8 has a scale for each 128 elements. Rows are
        float32 once they are gathered, and so are all layers.
    data : path or fsspec address, optional
        The dataset that the run learned from, or one that was prepared as it was. Where it maps ids
        by a vocabulary (`ids="appearance"` or `min_count`), the model does so too; without it the
        model takes the ids of the dataset.

    Returns
    -------
    Exported

    Raises
    ------
    ValueError, OSError
        The dtype is unknown, or the run is damaged or has multi-hot features, or the dataset is
        damaged, was prepared otherwise or has no vocabulary, or a file cannot be read or written.
    """
    folder, export = _built(run, dtype, data)
    return _written(folder, export, Path(path))


def export_repository(
    run: str | os.PathLike[str] | RunFolder,
    repository: str | os.PathLike[str],
    name: str | None = None,
    dtype: str = "float32",
    data: str | os.PathLike[str] | None = None,
) -> Exported:
    """Write a trained model into a model repository of Triton, as version 1 of a model.

    Triton's ONNX backend loads `<repository>/<name>` as it stands: config.pbtxt asks for dynamic
    batching, and 1/model.onnx is what `export_run` writes. Its output `probability` has the shape
    (batch, 1) there.

    Parameters
    ----------
    run, dtype, data
        As for `export_run`.
    repository : path
        Folder of models; made if it is missing. A version 1 of this model is replaced.
    name : str, optional
        Of the model: letters, digits, "_", "-" and ".". By default that of the run's folder.

    Returns
    -------
    Exported

    Raises
    ------
    ValueError, OSError
        As for `export_run`, or the name has other characters, or the run has no dense features, or
        the model has a later version there.
    """
    folder, export = _built(run, dtype, data)
    name = model_name(folder.path, name)
    shape = folder.config["model"]
    text = config_text(name, shape["num_dense"], shape["num_tables"])
    place = Path(repository) / name
    check_versions(place)
    (place / VERSION).mkdir(parents=True, exist_ok=True)
    exported = _written(folder, export, place / VERSION / MODEL)
    write_text(place / CONFIG, text)  # last, as Triton loads a model by it
    return exported


def model_name(run: str | os.PathLike[str], name: str | None = None) -> str:
    """The name of a run's model in a repository; ValueError for one that Triton may not take."""
    return check_name(Path(run).resolve().name if name is None else name)


def _built(
    run: str | os.PathLike[str] | RunFolder, dtype: str, data: str | os.PathLike[str] | None
) -> tuple[RunFolder, Export]:
    if dtype not in STORAGES:
        raise ValueError(f"dtype is {dtype!r}; use one of {', '.join(STORAGES)}")
    folder = run if isinstance(run, RunFolder) else RunFolder(run)
    folder.check_single_ids("an exported model")
    model = folder.load_model()
    vocabulary = None if data is None else _vocabulary(folder, data)
    digest = digest_of_model(folder.model_path, folder.config)
    return folder, build_model(model, folder.config["dataset"], digest, dtype, vocabulary)


def _vocabulary(folder: RunFolder, data: str | os.PathLike[str]) -> IdMap:
    """The vocabulary of a dataset, which is that of the run."""
    if not is_mapped(folder.config["dataset"]):
        raise ValueError(f"{folder.path} learned from raw ids, which need no dataset; leave it out")
    folder.check_dataset(Dataset(os.fspath(data)))
    return checked_vocabulary(os.fspath(data))


def _written(folder: RunFolder, export: Export, path: Path) -> Exported:
    files = write_model(export.model, export.constants, path)
    shape = folder.config["model"]
    num_bytes = sum(file.stat().st_size for file in files)
    return Exported(path, num_bytes, shape["num_dense"], shape["num_tables"], export.outside)
