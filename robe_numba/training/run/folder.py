"""A run on disk: settings, metrics as they came, and the weights.

config.json         settings, model shape, how embeddings are read, the dataset, digests
metrics.jsonl       one record per evaluation, the test record last
model.safetensors   weights (and, for the kinds that number ids, the known ids)
checkpoints/        of a run that is not finished, see `robe_numba.training.run.checkpoints`
report.html         curves and a table
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from data_tools import Dataset
from data_tools.storage.atomic import is_temporary, remove, remove_temporary
from data_tools.storage.checksums import digest_of
from data_tools.storage.own_files import check_no_link
from data_tools.storage.paths import check_folder, check_room_for_folder
from robe_numba.dlrm import DLRM
from robe_numba.parallel.group import Alone, Group
from robe_numba.training.config import ResolvedConfig
from robe_numba.training.run.checkpoints import BEST, Checkpoints, Standing, link
from robe_numba.training.run.config_file import (
    CONFIG,
    FORMAT,
    WITHOUT_DIGESTS,
    DamagedRunError,
    NotARunError,
    new_config,
    read_config,
    write_config,
)
from robe_numba.training.run.dataset_facts import PREPARATION, dataset_facts
from robe_numba.training.run.metrics_file import append_record, read_records, write_records
from robe_numba.training.run.model_file import check_model, replacing_model
from robe_numba.training.run.weights import load_weights, write_weights
from robe_numba.training.settings import RESUMABLE
from robe_numba.training.watchers import mlperf, tensorboard

METRICS, MODEL, REPORT = "metrics.jsonl", "model.safetensors", "report.html"
CHECKPOINTS = "checkpoints"
# All that we make in the folder of a run.
OWN = (CONFIG, METRICS, MODEL, REPORT, CHECKPOINTS, mlperf.NAME, tensorboard.NAME)


class RunFolder:
    """The folder of one training run.

    Parameters
    ----------
    path : the folder.

    Raises
    ------
    FileNotFoundError, NotADirectoryError : it is no run folder.
    ValueError : its config.json is damaged (`DamagedRunError`) or another program's.
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
    def stands_in(cls, path: str | os.PathLike[str]) -> bool:
        """Whether a run stands in `path`; False where nothing does.

        Raises
        ------
        FileExistsError : something else does.
        ValueError : a run whose config.json is damaged.
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
            why = f"{folder / CONFIG} is not of one" if isinstance(error, NotARunError) else ""
            raise FileExistsError(
                f"{folder} is there and is not a run ({why or f'it has no {CONFIG}'}); choose "
                f"another output"
            ) from None
        return True

    @classmethod
    def check_free(cls, path: str | os.PathLike[str], overwrite: bool) -> None:
        """Require that a run may be written to `path`.

        Raises
        ------
        FileExistsError : something stands there that is not a run to be overwritten.
        ValueError : a damaged run does, and is not to be overwritten.
        """
        try:
            stands = cls.stands_in(path)
        except DamagedRunError:
            if not overwrite:
                raise
            return
        if stands and not overwrite:
            raise FileExistsError(
                f"{path} holds a run; choose another output, or pass --resume to go on with it, or "
                f"--overwrite to replace it"
            )

    @staticmethod
    def check_links(path: str | os.PathLike[str]) -> None:
        """Require that nothing in the folder of a run is a symbolic link that we would write to.

        Raises
        ------
        OSError : something is; the folder itself may be a link.
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
        """Begin a run: the folder with its config.json and no metrics yet.

        Raises
        ------
        FileExistsError, ValueError : as `check_free`.
        OSError : as `check_links`.
        """
        cls.check_free(path, overwrite)
        cls.check_links(path)
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        remove_temporary(folder)
        # What an interrupted overwriting leaves must never pass for progress of the new run: the
        # checkpoints go at once, then the metrics, and the new settings come last.
        if (folder / CHECKPOINTS).exists():
            os.rename(folder / CHECKPOINTS, folder / f".{CHECKPOINTS}.tmp")
        for name in (METRICS, MODEL, REPORT, mlperf.NAME, tensorboard.NAME):
            remove(folder / name)
        write_config(folder / CONFIG, new_config(training, dataset, model))
        remove_temporary(folder)
        return cls(folder)

    def changed(self, training: ResolvedConfig, dataset: Dataset) -> dict[str, Any]:
        """Settings that differ from those of this run, with their new values.

        Raises
        ------
        ValueError : a run cannot go on with them, or the dataset is not its own.
        """
        old, new = self.config["training"], training.to_dict()
        changes = {name: new[name] for name in new if new[name] != old.get(name)}
        fixed = [name for name in changes if name not in RESUMABLE]
        if fixed:
            words = ", ".join(f"{name} {old.get(name)} (given: {new[name]})" for name in fixed)
            raise ValueError(
                f"{self.path} was begun with {words}; go on with the same, choose another output, "
                f"or pass --overwrite instead of --resume"
            )
        if not self.is_own(dataset):
            raise ValueError(
                f"{self.path} was begun on another dataset, or it was ingested again otherwise; "
                f"give the same"
            )
        return changes

    def change(self, training: ResolvedConfig, step: int, changes: dict[str, Any]) -> None:
        """Have config.json say what a run goes on with, and since when."""
        self.config["training"] = training.to_dict()
        if step:
            record = {"step": step, "changed": changes}
            self.config["changes"] = [*self.config.get("changes", ()), record]
        write_config(self.path / CONFIG, self.config)

    def restore(self, records: Sequence[dict[str, Any]], step: int) -> list[dict[str, Any]]:
        """Have metrics.jsonl hold the records of a checkpoint and what was changed since.

        Returns
        -------
        all of them
        """
        changes = [
            {**change, "step": min(step, change["step"])}
            for change in self.config.get("changes", ())
        ]
        records = [*records, *(change for change in changes if change not in records)]
        write_records(self.path / METRICS, records)
        return records

    @property
    def checkpoints(self) -> Checkpoints:
        """The checkpoints, which are only good for these data and fixed settings."""
        facts = {n: value for n, value in self.config.items() if n not in ("changes", "digests")}
        facts["format"] = WITHOUT_DIGESTS  # of checkpoints, which digests of the run leave
        training = self.config["training"].items()
        facts["training"] = {name: value for name, value in training if name not in RESUMABLE}
        return Checkpoints(self.path / CHECKPOINTS, facts)

    def load_checkpoint(self, model: DLRM, use_previous: bool = False) -> Standing:
        """Put a model, and model.safetensors, into the state of the latest checkpoint.

        Arguments, result and errors are those of `Checkpoints.load`.
        """
        standing = self.checkpoints.load(model, use_previous)
        if not self.has_digests:  # an earlier version began it: from here on it has
            models = [digest_of(self.model_path)] if self.has_model else []
            self.config |= {"format": FORMAT, "digests": {"models": models}}
            write_config(self.path / CONFIG, self.config)
        if standing.best_digest is not None:
            with replacing_model(self.model_path, self.path / CONFIG, self.config) as temporary:
                temporary.unlink()
                link(self.checkpoints.path(standing.step) / BEST, temporary)
        return standing

    @property
    def finished(self) -> bool:
        """Whether the run has come to its test record.

        One whose metrics.jsonl is damaged goes on where it has a checkpoint, which has the records.
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
        """All records of metrics.jsonl so far; see `read_records`."""
        return read_records(self.path / METRICS)

    def save_model(self, model: DLRM) -> str:
        """Write model.safetensors, see `write_weights`; its digest."""
        with replacing_model(self.model_path, self.path / CONFIG, self.config) as temporary:
            write_weights(model, temporary)
        return str(self.config["digests"]["models"][-1])

    @property
    def model_path(self) -> Path:
        """Where the best weights are."""
        return self.path / MODEL

    @property
    def has_model(self) -> bool:
        """Whether there are weights to score with."""
        return self.model_path.is_file()

    @property
    def has_digests(self) -> bool:
        """Whether damage to its model and its settings is noticed; earlier versions kept none."""
        return "digests" in self.config

    def check_model(self) -> None:
        """Require that model.safetensors is as this run wrote it, if it has come to that.

        Raises
        ------
        DamagedRunError : it is not.
        OSError : it is gone or cannot be read.
        """
        if self.has_digests and (self.has_model or self.finished):
            check_model(self.model_path, self.path / CONFIG)

    def load_model(
        self, threads: int | None = None, device: str = "cpu", group: Group | None = None
    ) -> DLRM:
        """The model of the run, ready to score on a device; see `load_weights`.

        Raises
        ------
        ValueError, OSError : as `check_model` and `load_weights`.
        """
        group = group or Alone()
        group.at_root(self.check_model)
        shape, embedding = self.config["model"], self.config["embedding"]
        return load_weights(self.model_path, shape, embedding, threads, device, group)

    def check_dataset(self, dataset: Dataset) -> None:
        """Require data that was prepared as the training data was.

        Raises
        ------
        ValueError : its columns or its options differ; the message says which.
        """
        trained, given = self.config["dataset"], dataset_facts(dataset)
        for name in PREPARATION:
            if trained.get(name) != given[name]:
                raise ValueError(
                    f"the model was trained with {name} = {trained.get(name)}, but this dataset "
                    f"has {given[name]}; ingest it as the training data was"
                )

    def is_own(self, dataset: Dataset) -> bool:
        """Whether this is the dataset that the run was trained on."""
        return bool(self.config["dataset"] == dataset_facts(dataset))
