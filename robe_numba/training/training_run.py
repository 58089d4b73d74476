"""Training a model on a dataset, from the beginning or from a checkpoint."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numba
import numpy as np

from data_tools import Dataset, Split
from robe_numba import __version__
from robe_numba.dlrm.backends import backend_for
from robe_numba.parallel.data_parallel import check_batch_size
from robe_numba.parallel.group import Alone, Group
from robe_numba.parallel.replica_check import differing_ranks
from robe_numba.training.config import ResolvedConfig, TrainingConfig
from robe_numba.training.interrupts import deferred_interrupt
from robe_numba.training.loop import AgreedStop, Learner
from robe_numba.training.model_builder import (
    build_model,
    model_config,
    needs_vocabulary,
    training_vocabulary,
)
from robe_numba.training.run.dataset_facts import dataset_facts
from robe_numba.training.run.folder import RunFolder
from robe_numba.training.run.root_only import RootOnlyRun
from robe_numba.training.watchers.base import Watcher

CHECKPOINT_SECONDS = 600.0


class TrainingInterrupted(KeyboardInterrupt):
    """Ctrl-C during training.

    Attributes
    ----------
    run : RunFolder
        The run so far: its weights can be scored, and it can be resumed.
    """

    def __init__(self, run: RunFolder):
        super().__init__(run)
        self.run = run

    def __str__(self) -> str:
        return f"{self.run.path} was interrupted; --resume continues"


@contextmanager
def computing(device: str, threads: int | None = None, group: Group | None = None) -> Iterator[int]:
    """Set up a device for models within the block: threads of the CPU, or a stream of a GPU.

    Processes of a group that are on one machine share its GPUs, and its cores where `threads` is
    None.

    Parameters
    ----------
    device : str
        "cpu" or "cuda".
    threads : int, optional
        Most threads; by default Numba's number of threads, or this process's share.
    group : Group, optional
        The processes.

    Yields
    ------
    int
        The number of threads.

    Raises
    ------
    ValueError, ImportError, OSError
        The device is unknown, or not available on this machine.
    """
    backend, before = backend_for(device), numba.get_num_threads()
    group = group or Alone()
    threads = group.threads if threads is None else threads
    if group.size > 1:
        backend.select_device(group.local_rank)
    try:
        if threads is not None:
            numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
        with backend.stream():
            yield numba.get_num_threads()
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
    group: Group | None = None,
) -> RunFolder:
    """Train a model on a dataset and leave a run folder; `write_report(run)` adds report.html.

    model.safetensors holds the weights of the best validation AUC so far, or the latest weights
    where AUC is not defined. The same dataset, config, number of processes and machine give the
    same bytes, for any number of threads, and however often the run was killed and resumed.

    Parameters
    ----------
    dataset : Dataset
        Labelled.
    config : TrainingConfig
        All settings.
    output : path
        Folder to make.
    threads : int, optional
        By default all cores, or a fair share if other processes of the group use them too.
    vocabulary : list of ndarray, optional
        Distinct ids of the training rows, if they are known already.
    watcher : Watcher, optional
        Is told of each step and evaluation.
    overwrite : bool
        Replace a run in `output`.
    resume : bool
        Resume the run in `output` from its last checkpoint. A finished run is returned as it is; if
        there is no run, one is started. Settings that only affect later steps
        (`robe_numba.training.settings.RESUMABLE`) may differ from those before.
    use_previous : bool
        If the last checkpoint is damaged, use the one before it.
    checkpoint_seconds : float, optional
        Time between checkpoints, 0 for one after each step; None writes none.
    group : Group, optional
        Processes that train together, all of which call this (see `robe_numba.parallel`). The
        batches are those of a single process, and each process takes its share of every batch.
        Rank 0 alone uses `output`, and should be given a watcher.

    Returns
    -------
    RunFolder
        Its last metrics record has the test metrics of the best weights.

    Raises
    ------
    ValueError
        The dataset has no labels or no training rows; a setting does not fit it (such as patience,
        if the validation rows have no AUC); the run cannot be resumed with these settings, or one
        of its files is damaged; or the processes were given different arguments.
    CheckpointError
        The checkpoint is damaged or of another run.
    FileExistsError
        `output` is not empty, or cannot be a folder.
    ImportError, OSError
        The device cannot be used; a file cannot be read or written; or a file that is to be
        written is a symbolic link.
    TrainingError
        Loss, scores or weights are not finite. What was saved before is kept.
    TrainingInterrupted
        Ctrl-C; the run has the best weights so far, or the latest, and a checkpoint.
    """
    group = group or Alone()
    resolved = replace(config.resolved(), ranks=group.size)
    watcher = watcher or Watcher()
    rows = _training_rows(dataset, resolved)
    model_config(dataset, resolved)  # what does not fit is refused before ids are counted
    check_alike(group, dataset, resolved)
    check_batch_size(resolved.batch_size, group.size)
    run = RootOnlyRun(output, resolved, dataset, group)
    finished = run.open(overwrite, resume)
    if finished is not None:
        return finished
    with computing(resolved.device, threads, group) as threads:
        # All processes count ids if one has to.
        if needs_vocabulary(resolved) and group.all_max(vocabulary is None):
            vocabulary = training_vocabulary(dataset, resolved, watcher.counting, group)
        model = build_model(dataset, resolved, vocabulary, threads)
        with run.started(model, overwrite, use_previous) as state:
            _learn(Learner(dataset, rows, model, run, watcher, threads, checkpoint_seconds, state))
            run.finish()
    return run.folder


def _learn(learner: Learner) -> None:
    """Train and test; at Ctrl-C leave a run that can be scored and resumed."""
    run, status = learner.run, "aborted"
    try:
        with deferred_interrupt() as check_interrupt:
            learner.learn(check_interrupt)
        status = "success"
        learner.test()
    except KeyboardInterrupt as error:
        if run.group.size > 1 and not isinstance(error, AgreedStop):
            raise  # the other processes do not know of it
        run.save_first_model(learner.model)
        raise TrainingInterrupted(run.folder) from None
    finally:
        learner.watcher.end(status)


def check_alike(group: Group, dataset: Dataset, config: TrainingConfig | None = None) -> None:
    """Require that all processes have the same arguments and software.

    Parameters
    ----------
    group : Group
        The processes.
    dataset : Dataset
        Of this process.
    config : TrainingConfig, optional
        Settings of this process.

    Raises
    ------
    ValueError
        In all processes; the message names the ranks that differ, and in what.
    """
    facts = {
        "versions": [__version__, np.__version__],  # NumPy's: all must draw the same permutations
        "settings": None if config is None else config.to_dict(),
        "dataset": dataset_facts(dataset),
    }
    contents = {name: json.dumps(f, sort_keys=True).encode() for name, f in facts.items()}
    wrong = differing_ranks(group, contents)
    if wrong:
        raise ValueError(
            f"the processes must have the same versions of robe_numba and NumPy, settings and "
            f"dataset. Ranks that differ from the rest: {'; '.join(wrong)}. Start all with the "
            f"same command, on data that all can read"
        )


def _training_rows(dataset: Dataset, config: ResolvedConfig) -> Split:
    if not dataset.labelled:
        raise ValueError("the dataset has no labels; training needs a labelled log")
    split = dataset.split("train", config.fractions, config.split_by, config.seed)
    if split.num_rows == 0:
        shares = "" if config.split_by == "day" else f", fractions {config.fractions}"
        raise ValueError(
            f"no training rows: {dataset.num_rows} rows, split by {config.split_by}{shares}"
        )
    return split
