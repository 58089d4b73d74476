"""The run folder of processes that train together."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from data_tools import Dataset
from data_tools.storage.locks import alone_in
from robe_numba.dlrm import DLRM
from robe_numba.parallel.group import Group, root_only
from robe_numba.training.config import ResolvedConfig
from robe_numba.training.run.checkpoints import TrainingState
from robe_numba.training.run.folder import RunFolder
from robe_numba.training.run.resume import resume_run, run_to_resume
from robe_numba.training.stopping import check_stopping


class RootOnlyRun:
    """The run folder that a group of processes trains in.

    Rank 0 alone reads and writes it. What a method returns or raises there, all processes get.

    Parameters
    ----------
    path : path
        The folder, which need not exist.
    config : ResolvedConfig
        Settings of the run.
    dataset : Dataset
        What is trained on.
    group : Group
        The processes.

    Attributes
    ----------
    folder : RunFolder
        The folder, once the run has started.
    """

    folder: RunFolder

    def __init__(
        self, path: str | os.PathLike[str], config: ResolvedConfig, dataset: Dataset, group: Group
    ):
        self.config, self.group = config, group
        self._path, self._dataset = path, dataset
        self._resumed: RunFolder | None = None

    def open(self, overwrite: bool, resume: bool) -> RunFolder | None:
        """Check that the run can be started or resumed, before anything is written.

        Returns
        -------
        RunFolder, optional
            The run, if it is finished.
        """
        self._resumed, finished = self._open(overwrite, resume)
        return self._resumed if finished else None

    @root_only
    def _open(self, overwrite: bool, resume: bool) -> tuple[RunFolder | None, bool]:
        run = run_to_resume(self._path, self.config, self._dataset) if resume else None
        if run is None:
            RunFolder.check_free(self._path, overwrite)
            RunFolder.check_links(self._path)
        elif run.finished:
            run.check_model()
            run.checkpoints.remove()
            return run, True
        check_stopping(self._dataset, self.config, run)
        return run, False

    @contextmanager
    def started(self, model: DLRM, overwrite: bool, use_previous: bool) -> Iterator[TrainingState]:
        """Start or resume the run, and keep other programs out of the folder within the block.

        The model gets the state of the run in all processes.
        """
        with ExitStack() as lock:
            self.folder, state = self._start(lock, model, overwrite, use_previous)
            self.group.broadcast_arrays(list((model.parameters() | model.state()).values()))
            yield state

    @root_only
    def _start(
        self, lock: ExitStack, model: DLRM, overwrite: bool, use_previous: bool
    ) -> tuple[RunFolder, TrainingState]:
        lock.enter_context(alone_in(Path(self._path)))
        run = self._resumed
        if run is not None:
            return run, resume_run(run, model, self.config, self._dataset, use_previous)
        run = RunFolder.create(self._path, self.config, self._dataset, model, overwrite)
        return run, TrainingState()

    @root_only
    def write_checkpoint(self, model: DLRM, state: TrainingState) -> None:
        """Write a checkpoint; see `Checkpoints.write`."""
        self.folder.checkpoints.write(model, state, self.folder.model_path)

    @root_only
    def checkpoint_steps(self) -> list[int]:
        """Steps of the checkpoints, the latest first."""
        return self.folder.checkpoints.steps()

    @root_only
    def append(self, record: dict[str, Any]) -> None:
        """Add a record to metrics.jsonl."""
        self.folder.append(record)

    @root_only
    def save_model(self, model: DLRM) -> str:
        """Write model.safetensors; returns its digest."""
        return self.folder.save_model(model)

    @root_only
    def save_first_model(self, model: DLRM) -> None:
        """Write model.safetensors if there is none yet."""
        if not self.folder.has_model:
            self.folder.save_model(model)

    def load_model(self, threads: int | None) -> DLRM:
        """The best model, in all processes; see `RunFolder.load_model`."""
        return self.folder.load_model(threads, self.config.device, self.group)

    @root_only
    def finish(self) -> None:
        """Remove the checkpoints of a run that is done."""
        self.folder.checkpoints.remove()
