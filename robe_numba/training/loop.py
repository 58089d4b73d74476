"""Training a model on a dataset, from the beginning or from a checkpoint."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numba
import numpy as np

from data_tools import Dataset, Split
from robe_numba.dlrm import DLRM
from robe_numba.dlrm.placement import placement
from robe_numba.training.building import build_model, needs_vocabulary, training_vocabulary
from robe_numba.training.checkpoints import Standing
from robe_numba.training.config import TrainingConfig
from robe_numba.training.files import alone_in, remove_temporary
from robe_numba.training.interrupts import deferred_interrupt
from robe_numba.training.learner import Learner
from robe_numba.training.run_folder import RunFolder
from robe_numba.training.watching import Watcher

CHECKPOINT_SECONDS = 600.0


class TrainingInterrupted(KeyboardInterrupt):
    """Ctrl-C during training.

    Attributes
    ----------
    run : RunFolder   What was left; its weights can be scored, and it can be gone on with.
    """

    def __init__(self, run: RunFolder):
        super().__init__(run)
        self.run = run


@contextmanager
def computing(device: str, threads: int | None) -> Iterator[None]:
    """Within the block, run a device's models: "cpu" on at most so many threads, None changing
    nothing; "cuda" on a stream of their own.

    Raises
    ------
    ValueError, ImportError, OSError : no such device, or not on this machine.
    """
    place, before = placement(device), numba.get_num_threads()
    if threads is not None:
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    try:
        with place.stream():
            yield
    finally:
        numba.set_num_threads(before)


def train(
    dataset: Dataset,
    config: TrainingConfig,
    output: str | os.PathLike[str],
    *,
    threads: int | None = None,
    vocabulary: list[np.ndarray] | None = None,
    watcher: Watcher | None = None,
    overwrite: bool = False,
    resume: bool = False,
    use_previous: bool = False,
    checkpoint_seconds: float | None = CHECKPOINT_SECONDS,
) -> RunFolder:
    """Train a model on a dataset and leave a run folder; `write_report(run)` adds report.html.

    model.safetensors holds the weights of the best validation AUC so far, or the latest weights
    where AUC is not defined. The same dataset, config and machine give the same bytes, for any
    number of threads, and however often the run was killed and gone on with.

    Parameters
    ----------
    dataset : labelled.
    config : all settings.
    output : folder to make.
    threads : None takes all cores.
    vocabulary : distinct ids of the training rows, where the caller has them already.
    watcher : is told of each step and evaluation.
    overwrite : replace a run that stands in `output`.
    resume : go on with a run that stands in `output`, from its last checkpoint; a run that is
        finished is returned as it is, and where none stands one is begun. Settings that decide
        steps to come (`run_folder.CHANGEABLE`) may differ from those before.
    use_previous : where the last checkpoint is damaged, take the one before it.
    checkpoint_seconds : between checkpoints, 0 for one after each step; None writes none.

    Returns
    -------
    the run; its last metrics record has the test metrics of the weights that were kept.

    Raises
    ------
    ValueError : the dataset has no labels or no training rows, or a setting does not fit it; or
        not the run that is to be gone on with.
    CheckpointError : the checkpoint is damaged or of another run.
    FileExistsError : `output` is not empty.
    ImportError, OSError : the device cannot be used.
    TrainingError : loss, scores or weights are not finite. What was saved before stays.
    TrainingInterrupted : Ctrl-C; the run has the best weights so far, or the latest, and a
        checkpoint.
    """
    config = config.resolved()
    watcher = watcher or Watcher()
    split = _training_rows(dataset, config)
    resumed = RunFolder(output) if resume and RunFolder.stands_in(output) else None
    if resumed is None:
        RunFolder.check_free(output, overwrite)
    else:
        changes = resumed.changed(config, dataset)
        if resumed.finished:
            if changes:
                raise ValueError(
                    f"{output} is finished and cannot go on with another {', '.join(changes)}; "
                    f"choose another output"
                )
            resumed.checkpoints.remove()
            return resumed
    with computing(config.device, threads):
        if vocabulary is None and needs_vocabulary(config):
            vocabulary = training_vocabulary(dataset, config, watcher.counting)
        model = build_model(dataset, config, vocabulary, threads)
        with alone_in(Path(output)):
            run, standing = _begin(resumed, model, dataset, config, output, overwrite, use_previous)
            learner = Learner(
                dataset, config, model, run, watcher, threads, checkpoint_seconds, standing
            )
            status = "aborted"
            try:
                with deferred_interrupt() as check_interrupt:
                    learner.learn(split, check_interrupt)
                status = "success"
                learner.test()
            except KeyboardInterrupt:
                if not run.has_model:
                    run.save_model(model)
                raise TrainingInterrupted(run) from None
            finally:
                watcher.end(status)
            run.checkpoints.remove()
    return run


def _training_rows(dataset: Dataset, config: TrainingConfig) -> Split:
    if not dataset.labelled:
        raise ValueError("the dataset has no labels; training needs a labelled log")
    split = dataset.split("train", config.fractions, config.split_by, config.seed)
    if split.num_rows == 0:
        shares = "" if config.split_by == "day" else f", fractions {config.fractions}"
        raise ValueError(
            f"no training rows: {dataset.num_rows} rows, split by {config.split_by}{shares}"
        )
    return split


def _begin(
    resumed: RunFolder | None,
    model: DLRM,
    dataset: Dataset,
    config: TrainingConfig,
    output: str | os.PathLike[str],
    overwrite: bool,
    use_previous: bool,
) -> tuple[RunFolder, Standing]:
    """The run folder and where the run is, with the model in that state."""
    if resumed is None:
        return RunFolder.create(output, config, dataset, model, overwrite), Standing()
    if resumed.finished:
        raise BlockingIOError(f"{output} has just been finished by another process")
    remove_temporary(resumed.path)
    standing = resumed.checkpoints.load(model, resumed.model_path, use_previous)
    changes = resumed.changed(config, dataset)
    if changes:
        resumed.change(config, standing.step, changes)
    standing.records = resumed.restore(standing.records, standing.step)
    return resumed, standing
