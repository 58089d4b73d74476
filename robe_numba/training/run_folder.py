"""A run on disk: settings, metrics as they came, and the weights.

config.json         settings, model shape, how embeddings are read, the dataset
metrics.jsonl       one record per evaluation, the test record last
model.safetensors   weights (and, for the kinds that number ids, the known ids)
checkpoints/        of a run that is not finished, see `robe_numba.training.checkpoints`
report.html         curves and a table
"""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Self

from data_tools import Dataset
from robe_numba.dlrm import DLRM
from robe_numba.parallel.group import Alone, Group
from robe_numba.training import mlperf_log, tensorboard
from robe_numba.training.checkpoints import Checkpoints
from robe_numba.training.config import TrainingConfig
from robe_numba.training.dataset_facts import PREPARATION, dataset_facts
from robe_numba.training.files import is_temporary, remove_temporary, write_text
from robe_numba.training.weights import PREFIX, load_weights, save_weights

CONFIG, METRICS, MODEL, REPORT = "config.json", "metrics.jsonl", "model.safetensors", "report.html"
CHECKPOINTS = "checkpoints"
FORMAT = "robe run 1"
# Settings that a run may go on with changed: they decide steps to come, not what is there.
CHANGEABLE = (
    "lr",
    "embedding_lr",
    "warmup_steps",
    "decay_start",
    "decay_steps",
    "clip_norm",
    "epochs",
    "evaluations",
    "evaluation_steps",
    "target_auc",
    "patience",
    "exchange",
    "ranks",
)


class RunFolder:
    """The folder of one training run.

    Parameters
    ----------
    path : the folder.

    Raises
    ------
    FileNotFoundError : it is no run folder.
    ValueError : its config.json is damaged or another program's.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        if not (self.path / CONFIG).is_file():
            raise FileNotFoundError(
                f"{self.path} has no {CONFIG}: it is not the folder of a run; "
                f"give the --output of robe train"
            )
        self.config = self._read_config()

    def _read_config(self) -> dict[str, Any]:
        try:
            config = json.loads((self.path / CONFIG).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{self.path / CONFIG} is not JSON ({error})") from None
        wanted = {"format", "training", "model", "embedding", "sizes", "dataset"}
        known = isinstance(config, dict) and set(config) - {"changes"} == wanted
        if not known or config["format"] != FORMAT:
            raise ValueError(
                f"{self.path / CONFIG} is not the config of a run (format {FORMAT!r}); "
                f"give the --output of robe train"
            )
        # Settings that came with a later version were at their defaults.
        defaults = {setting.name: setting.default for setting in fields(TrainingConfig)}
        config["training"] = {**defaults, **config["training"]}
        return config

    @classmethod
    def stands_in(cls, path: str | os.PathLike[str]) -> bool:
        """Whether a run stands in `path`; False where nothing does.

        Raises
        ------
        FileExistsError : something else does.
        """
        folder = Path(path)
        if not folder.exists():
            return False
        # A process that was killed may have left temporary files and nothing else.
        if folder.is_dir() and all(is_temporary(inner) for inner in folder.iterdir()):
            return False
        try:
            cls(folder)
        except (FileNotFoundError, NotADirectoryError, ValueError):
            raise FileExistsError(
                f"{folder} is there and is not a run; choose another output"
            ) from None
        return True

    @classmethod
    def check_free(cls, path: str | os.PathLike[str], overwrite: bool) -> None:
        """Require that a run may be written to `path`.

        Raises
        ------
        FileExistsError : something stands there that is not a run to be overwritten.
        """
        if cls.stands_in(path) and not overwrite:
            raise FileExistsError(
                f"{path} holds a run; choose another output, or pass --resume to go on with it, or "
                f"--overwrite to replace it"
            )

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        training: TrainingConfig,
        dataset: Dataset,
        model: DLRM,
        overwrite: bool = False,
    ) -> Self:
        """Begin a run: the folder with its config.json and no metrics yet.

        Raises
        ------
        FileExistsError : as `check_free`.
        """
        cls.check_free(path, overwrite)
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        remove_temporary(folder)
        # What an interrupted overwriting leaves must never pass for progress of the new run: the
        # checkpoints go at once, then the metrics, and the new settings come last.
        if (folder / CHECKPOINTS).exists():
            os.rename(folder / CHECKPOINTS, folder / f".{CHECKPOINTS}.tmp")
        for name in (METRICS, MODEL, REPORT, mlperf_log.NAME):
            (folder / name).unlink(missing_ok=True)
        shutil.rmtree(folder / tensorboard.NAME, ignore_errors=True)
        write_text(folder / CONFIG, _config_text(training, dataset, model))
        remove_temporary(folder)
        return cls(folder)

    def changed(self, training: TrainingConfig, dataset: Dataset) -> dict[str, Any]:
        """Settings that differ from those of this run, with their new values.

        Raises
        ------
        ValueError : a run cannot go on with them, or the dataset is not its own.
        """
        old, new = self.config["training"], training.to_dict()
        changes = {name: new[name] for name in new if new[name] != old.get(name)}
        fixed = [name for name in changes if name not in CHANGEABLE]
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

    def change(self, training: TrainingConfig, step: int, changes: dict[str, Any]) -> None:
        """Have config.json say what a run goes on with, and since when."""
        self.config["training"] = training.to_dict()
        if step:
            record = {"step": step, "changed": changes}
            self.config["changes"] = [*self.config.get("changes", ()), record]
        write_text(self.path / CONFIG, json.dumps(self.config, indent=2) + "\n")

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
        write_text(self.path / METRICS, "".join(json.dumps(r) + "\n" for r in records))
        return records

    @property
    def checkpoints(self) -> Checkpoints:
        """The checkpoints, which are only good for these data and fixed settings."""
        facts = {name: value for name, value in self.config.items() if name != "changes"}
        training = self.config["training"].items()
        facts["training"] = {name: value for name, value in training if name not in CHANGEABLE}
        return Checkpoints(self.path / CHECKPOINTS, facts)

    @property
    def finished(self) -> bool:
        """Whether the run has come to its test record."""
        return any("test" in record for record in self.metrics())

    def append(self, record: dict[str, Any]) -> None:
        """Add one line to metrics.jsonl."""
        with open(self.path / METRICS, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """All records so far; a last line that was cut off is none.

        Raises
        ------
        ValueError : another line is damaged.
        """
        path = self.path / METRICS
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        lines = text[: text.rfind("\n") + 1].splitlines()
        try:
            return [json.loads(line) for line in lines]
        except ValueError as error:
            raise ValueError(f"{path} is damaged ({error}); train again") from None

    def save_model(self, model: DLRM) -> None:
        """Write model.safetensors, see `save_weights`."""
        save_weights(model, self.model_path)

    @property
    def model_path(self) -> Path:
        """Where the best weights are."""
        return self.path / MODEL

    @property
    def has_model(self) -> bool:
        """Whether there are weights to score with."""
        return self.model_path.is_file()

    def load_model(
        self, threads: int | None = None, device: str = "cpu", group: Group | None = None
    ) -> DLRM:
        """The model of the run, ready to score on a device; see `load_weights`."""
        shape, embedding = self.config["model"], self.config["embedding"]
        return load_weights(self.model_path, shape, embedding, threads, device, group or Alone())

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


def _config_text(training: TrainingConfig, dataset: Dataset, model: DLRM) -> str:
    tables = model.embedding.tables().values()
    dense = (a.nbytes for n, a in model.parameters().items() if not n.startswith(PREFIX))
    config = {
        "format": FORMAT,
        "training": training.to_dict(),
        "model": model.config.to_dict(),
        "embedding": model.embedding.describe(),
        "sizes": {
            "embedding_bytes": model.embedding.num_bytes,
            "vocabulary_bytes": sum(array.nbytes for array in tables),
            "dense_bytes": sum(dense),
        },
        "dataset": dataset_facts(dataset),
    }
    return json.dumps(config, indent=2) + "\n"
