"""The folder of a run.

config.json         settings, model shape, how embeddings are read, the dataset, digests
metrics.jsonl       one record per evaluation, the test record last
model.safetensors   weights (and the known ids, for the kinds that number them)
checkpoints/        until the run is finished, see `robe_numba.training.run.checkpoints`
report.html         curves and a table
"""

import os
from pathlib import Path
from typing import Any, Self

import numpy as np

from data_tools import Dataset
from data_tools.storage.atomic import is_temporary, remove, remove_temporary
from data_tools.storage.own_files import check_no_link
from data_tools.storage.paths import check_folder, check_room_for_folder
from robe_numba.dlrm import DLRM
from robe_numba.parallel.group import Alone, Group
from robe_numba.quantization.storages import check_storage
from robe_numba.training.config import ResolvedConfig
from robe_numba.training.run.checkpoints import Checkpoints
from robe_numba.training.run.config_file import (
    CONFIG,
    WITHOUT_DIGESTS,
    DamagedRunError,
    NotARunError,
    new_config,
    read_config,
    write_config,
)
from robe_numba.training.run.dataset_facts import PREPARATION, dataset_facts
from robe_numba.training.run.metrics_file import append_record, read_records
from robe_numba.training.run.model_file import check_model, replacing_model
from robe_numba.training.run.weights import model_from_weights, read_weights, write_weights
from robe_numba.training.settings import LATER, RESUMABLE, SETTINGS
from robe_numba.training.watchers import mlperf, tensorboard

METRICS, MODEL, REPORT = "metrics.jsonl", "model.safetensors", "report.html"
CHECKPOINTS = "checkpoints"
# Everything that training writes in the folder of a run.
OWN = (CONFIG, METRICS, MODEL, REPORT, CHECKPOINTS, mlperf.NAME, tensorboard.NAME)


class RunFolder:
    """The folder of one training run.

    Parameters
    ----------
    path : path
        The folder.

    Attributes
    ----------
    path : Path
        The folder.
    config : dict
        The content of config.json.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        It is not a run folder.
    ValueError
        Its config.json is damaged (`DamagedRunError`) or another program's.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        check_folder(self.path, "give the --output of robe train")
        if not (self.path / CONFIG).is_file():
            raise FileNotFoundError(
                f"{self.path} has no {CONFIG}: it is not the folder of a run; "
                f"give the --output of robe train"
            )
        self.config = read_config(self.path / CONFIG)

    @classmethod
    def exists_at(cls, path: str | os.PathLike[str]) -> bool:
        """Whether `path` has a run; False if it has nothing.

        Raises
        ------
        FileExistsError
            It has something else.
        ValueError
            It has a run whose config.json is damaged.
        """
        folder = Path(path)
        check_room_for_folder(folder)
        if not folder.exists():
            return False
        # A process that was killed may have left temporary files and nothing else.
        if all(is_temporary(inner) for inner in folder.iterdir()):
            return False
        try:
            cls(folder)
        except (FileNotFoundError, NotARunError) as error:
            foreign = isinstance(error, NotARunError)
            why = f"{folder / CONFIG} is another program's" if foreign else f"it has no {CONFIG}"
            raise FileExistsError(
                f"{folder} exists and is not a run ({why}); choose another output"
            ) from None
        return True

    @classmethod
    def check_free(cls, path: str | os.PathLike[str], overwrite: bool) -> None:
        """Require that a run may be written to `path`.

        Raises
        ------
        FileExistsError
            It has something other than a run to be overwritten.
        ValueError
            It has a damaged run that is not to be overwritten.
        """
        try:
            exists = cls.exists_at(path)
        except DamagedRunError:
            if not overwrite:
                raise
            return
        if exists and not overwrite:
            raise FileExistsError(
                f"{path} holds a run; choose another output, or pass --resume to continue it, or "
                f"--overwrite to replace it"
            )

    @staticmethod
    def check_links(path: str | os.PathLike[str]) -> None:
        """Require that no file to be written in a run folder is a symbolic link.

        Raises
        ------
        OSError
            One is. (The folder itself may be a link.)
        """
        for name in OWN:
            check_no_link(Path(path) / name)

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        training: ResolvedConfig,
        dataset: Dataset,
        model: DLRM,
        overwrite: bool = False,
    ) -> Self:
        """Start a run: make the folder, with its config.json and no metrics yet.

        Raises
        ------
        FileExistsError, ValueError
            As `check_free`.
        OSError
            As `check_links`.
        """
        cls.check_free(path, overwrite)
        cls.check_links(path)
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        remove_temporary(folder)
        # An interrupted overwrite must leave nothing that looks like progress of the new run: the
        # checkpoints are removed at once, then the metrics; the new settings are written last.
        if (folder / CHECKPOINTS).exists():
            os.rename(folder / CHECKPOINTS, folder / f".{CHECKPOINTS}.tmp")
        for name in (METRICS, MODEL, REPORT, mlperf.NAME, tensorboard.NAME):
            remove(folder / name)
        write_config(folder / CONFIG, new_config(training, dataset, model))
        remove_temporary(folder)
        return cls(folder)

    @property
    def checkpoints(self) -> Checkpoints:
        """The checkpoints, which only fit this dataset and the settings that cannot change."""
        facts = {n: value for n, value in self.config.items() if n not in ("changes", "digests")}
        facts["format"] = WITHOUT_DIGESTS  # of the checkpoints, whatever that of the run
        facts["training"] = {
            name: value
            for name, value in self.config["training"].items()
            if name not in RESUMABLE and (name not in LATER or value != SETTINGS[name].default)
        }
        return Checkpoints(self.path / CHECKPOINTS, facts)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings, with the interaction, which runs of earlier versions left to the preset."""
        return {**self.config["training"], "interaction": self.config["model"]["interaction"]}

    @property
    def finished(self) -> bool:
        """Whether the run has a test record.

        If its metrics.jsonl is damaged it is not finished as long as it has a checkpoint, which has
        the records.
        """
        try:
            return any("test" in record for record in self.metrics())
        except DamagedRunError:
            if not self.checkpoints.steps():
                raise
            return False

    def append(self, record: dict[str, Any]) -> None:
        """Add one line to metrics.jsonl."""
        append_record(self.path / METRICS, record)

    def metrics(self) -> list[dict[str, Any]]:
        """All records of metrics.jsonl; see `read_records`."""
        return read_records(self.path / METRICS)

    def save_model(self, model: DLRM) -> str:
        """Write model.safetensors and return its digest; see `write_weights`."""
        with replacing_model(self.model_path, self.path / CONFIG, self.config) as temporary:
            write_weights(model, temporary)
        return str(self.config["digests"]["models"][-1])

    @property
    def model_path(self) -> Path:
        """The path of model.safetensors, the best weights."""
        return self.path / MODEL

    @property
    def has_model(self) -> bool:
        """Whether there is a model.safetensors."""
        return self.model_path.is_file()

    @property
    def has_digests(self) -> bool:
        """Whether damage to the model and the settings can be detected; not in earlier versions."""
        return "digests" in self.config

    def check_model(self) -> None:
        """Require that model.safetensors is as this run wrote it, if it has one.

        Raises
        ------
        DamagedRunError
            It is not.
        OSError
            It is missing or cannot be read.
        """
        if self.has_digests and (self.has_model or self.finished):
            check_model(self.model_path, self.path / CONFIG)

    def load_model(
        self,
        threads: int | None = None,
        device: str = "cpu",
        group: Group | None = None,
        storage: str = "float32",
    ) -> DLRM:
        """Load the model of the run, ready to score but without optimizer state.

        Parameters
        ----------
        threads : int, optional
            As for `DLRM`.
        device : str
            "cpu" or "cuda".
        group : Group, optional
            Processes that all call this and get the model; rank 0 alone reads it.
        storage : {"float32", "float16", "bfloat16", "int8"}
            How the embedding is kept in memory (see `Embedding.stored_as`).

        Returns
        -------
        DLRM

        Raises
        ------
        ValueError, OSError
            The model is damaged, missing or not of this run, or cannot be read; or a weight is not
            finite; or the storage is unknown, not for the device, or cannot hold a weight.
        """
        check_storage(storage)

        def read() -> dict[str, np.ndarray]:
            self.check_model()
            return read_weights(self.model_path)

        arrays = (group or Alone()).arrays_at_root(read)
        model = (self.config["model"], self.config["embedding"])
        return model_from_weights(self.model_path, arrays, *model, threads, device, storage)

    def check_single_ids(self, what: str) -> None:
        """Raise ValueError if a feature is multi-hot, which `what` cannot read."""
        names = self.config["dataset"].get("multi_hot")
        if names:
            raise ValueError(
                f"{self.path} has multi-hot features ({', '.join(names)}), but {what} takes one "
                f"id of each feature; serve it with robe serve, or score datasets with robe "
                f"predict and rows with robe_numba.serving.Scorer"
            )

    def check_dataset(self, dataset: Dataset) -> None:
        """Require a dataset that was prepared as the training data was.

        Raises
        ------
        ValueError
            Its columns or its options differ; the message says which.
        """
        trained, given = self.config["dataset"], dataset_facts(dataset)
        for name in PREPARATION:
            if trained.get(name) != given.get(name):
                raise ValueError(
                    f"the model was trained with {name} = {trained.get(name)}, but this dataset "
                    f"has {given.get(name)}; ingest it as the training data was"
                )

    def is_own(self, dataset: Dataset) -> bool:
        """Whether this is the dataset that the run was trained on."""
        return bool(self.config["dataset"] == dataset_facts(dataset))
