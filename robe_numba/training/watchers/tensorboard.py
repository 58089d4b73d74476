"""Curves of a run for TensorBoard, if that is installed."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_tools.storage.own_files import make_own_folder
from robe_numba.dlrm import DLRM
from robe_numba.training.watchers.base import Watcher

NAME = "tensorboard"
STEPS_PER_LOSS = 100


def installed() -> bool:
    """Whether TensorBoard is installed."""
    return importlib.util.find_spec("tensorboard") is not None


def takes(folder: Path) -> bool:
    """Whether TensorBoard can write to a folder, whose name must be UTF-8."""
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        return False
    return True


class TensorBoardLog(Watcher):
    """Writes losses and metrics of a run into its folder, for `tensorboard --logdir RUN`.

    Parameters
    ----------
    folder : Path
        Folder of the run, which need not exist before the run starts.

    Raises
    ------
    ImportError
        TensorBoard is not installed.
    ValueError
        The name of the folder is not UTF-8.
    """

    def __init__(self, folder: Path):
        from tensorboard.summary import Writer

        if not takes(folder):
            raise ValueError(f"TensorBoard needs a name in UTF-8, not {folder}; rename it")
        self._make, self._path = Writer, folder / NAME
        self._writer: Any = None
        self._step = 0

    def begin(self, model: DLRM, steps: int, done: int) -> None:
        self._step = done
        make_own_folder(self._path)
        self._writer = self._make(str(self._path))

    def step(self, step: int, loss: float) -> None:
        self._step = step
        if step % STEPS_PER_LOSS == 0:
            self._writer.add_scalar("train/loss of the batch", float(loss), step)

    def evaluated(self, record: Mapping[str, Any]) -> None:
        if "train_loss" in record:
            self._writer.add_scalar("train/loss", record["train_loss"], record["step"])
        for rows in ("validation", "test"):
            for name, value in record.get(rows, {}).items():
                if name not in ("rows", "click_rate") and value is not None:
                    self._writer.add_scalar(f"{rows}/{name}", value, self._step)
        self._writer.flush()
