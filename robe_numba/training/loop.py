"""Training a model on a dataset, from the beginning or from a checkpoint."""

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import numba
import numpy as np

from data_tools import Dataset, Split
from data_tools.storage.atomic import remove_temporary
from data_tools.storage.locks import alone_in
from robe_numba import __version__
from robe_numba.dlrm import DLRM
from robe_numba.dlrm.backends import backend_for
from robe_numba.parallel.data_parallel import check_batch_size
from robe_numba.parallel.group import Alone, Group
from robe_numba.parallel.replica_check import differing_ranks
from robe_numba.training.config import ResolvedConfig, TrainingConfig
from robe_numba.training.interrupts import deferred_interrupt
from robe_numba.training.learner import AgreedStop, Learner
from robe_numba.training.model_builder import build_model, needs_vocabulary, training_vocabulary
from robe_numba.training.run.checkpoints import Standing
from robe_numba.training.run.dataset_facts import dataset_facts
from robe_numba.training.run.folder import RunFolder
from robe_numba.training.stopping import check_stopping
from robe_numba.training.watchers.base import Watcher

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

    def __str__(self) -> str:
        return f"{self.run.path} was interrupted; --resume goes on"


@contextmanager
def computing(device: str, threads: int | None = None, group: Group | None = None) -> Iterator[int]:
    """Within the block, run a device's models: "cpu" on at most so many threads, None changing
    nothing; "cuda" on a stream of their own. Processes of a group that are on one machine share its
    cores out, where `threads` is None, and its GPUs. Yields the number of threads.

    Raises
    ------
    ValueError, ImportError, OSError : no such device, or not on this machine.
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
    same bytes, for any number of threads, and however often the run was killed and gone on with.

    Parameters
    ----------
    dataset : labelled.
    config : all settings.
    output : folder to make.
    threads : None takes all cores, or a fair share where other processes use them too.
    vocabulary : distinct ids of the training rows, where the caller has them already.
    watcher : is told of each step and evaluation.
    overwrite : replace a run that stands in `output`.
    resume : go on with a run that stands in `output`, from its last checkpoint; a run that is
        finished is returned as it is, and where none stands one is begun. Settings that decide
        steps to come (`robe_numba.training.settings.RESUMABLE`) may differ from those before.
    use_previous : where the last checkpoint is damaged, take the one before it.
    checkpoint_seconds : between checkpoints, 0 for one after each step; None writes none.
    group : processes that train together, all of which call this (see `robe_numba.parallel`). The
        batches are those of a single process and each process takes its share of every one. The
        one of rank 0 alone uses `output` and should be given a watcher.

    Returns
    -------
    the run; its last metrics record has the test metrics of the weights that were kept.

    Raises
    ------
    ValueError : the dataset has no labels or no training rows, or a setting does not fit it (such
        as patience, if the validation rows have no AUC); not the run that is to be gone on with,
        or a file of it is damaged; or processes were asked for different things.
    CheckpointError : the checkpoint is damaged or of another run.
    FileExistsError : `output` is not empty, or cannot be a folder.
    ImportError, OSError : the device cannot be used, or a file cannot be read or written; or what
        is to be written in `output` is a symbolic link there.
    TrainingError : loss, scores or weights are not finite. What was saved before stays.
    TrainingInterrupted : Ctrl-C; the run has the best weights so far, or the latest, and a
        checkpoint.
    """
    group = group or Alone()
    config = replace(config.resolved(), ranks=group.size)
    watcher = watcher or Watcher()
    split = _training_rows(dataset, config)
    check_alike(group, dataset, config)
    check_batch_size(config.batch_size, group.size)
    resumed = group.at_root(lambda: _standing_run(output, dataset, config, overwrite, resume))
    if resumed is not None and group.at_root(lambda: resumed.finished):
        group.at_root(resumed.check_model)
        group.at_root(resumed.checkpoints.remove)
        return resumed
    group.at_root(lambda: check_stopping(dataset, config, resumed))
    with computing(config.device, threads, group) as threads:
        # All count if one has to.
        if needs_vocabulary(config) and group.all_max(vocabulary is None):
            vocabulary = training_vocabulary(dataset, config, watcher.counting, group)
        model = build_model(dataset, config, vocabulary, threads)
        with ExitStack() as held:
            group.at_root(lambda: held.enter_context(alone_in(Path(output))))
            run, standing = group.at_root(
                lambda: _begin(resumed, model, dataset, config, output, overwrite, use_previous)
            )
            group.broadcast_arrays(list((model.parameters() | model.state()).values()))
            learner = Learner(
                dataset, config, model, run, group, watcher, threads, checkpoint_seconds, standing
            )
            status = "aborted"
            try:
                with deferred_interrupt() as check_interrupt:
                    learner.learn(split, check_interrupt)
                status = "success"
                learner.test()
            except KeyboardInterrupt as error:
                if group.size > 1 and not isinstance(error, AgreedStop):
                    raise  # the others do not know of it
                group.at_root(lambda: None if run.has_model else run.save_model(model))
                raise TrainingInterrupted(run) from None
            finally:
                watcher.end(status)
            group.at_root(run.checkpoints.remove)
    return run


def check_alike(group: Group, dataset: Dataset, config: TrainingConfig | None = None) -> None:
    """Require that all processes were asked for the same, and have the same software.

    Raises
    ------
    ValueError : in all processes; the message names those that differ, and in what.
    """
    facts = {
        "versions": [__version__, np.__version__],  # NumPy's: all draw the same permutations
        "settings": None if config is None else config.to_dict(),
        "dataset": dataset_facts(dataset),
    }
    contents = {name: json.dumps(f, sort_keys=True).encode() for name, f in facts.items()}
    wrong = differing_ranks(group, contents)
    if wrong:
        raise ValueError(
            f"the processes must have the same versions of robe_numba and NumPy, settings and "
            f"dataset. Others than the rest: {'; '.join(wrong)}. Start all alike, with data that "
            f"all see"
        )


def _standing_run(
    output: str | os.PathLike[str],
    dataset: Dataset,
    config: ResolvedConfig,
    overwrite: bool,
    resume: bool,
) -> RunFolder | None:
    """The run to go on with; None where one is to begin."""
    if not (resume and RunFolder.stands_in(output)):
        RunFolder.check_free(output, overwrite)
        RunFolder.check_links(output)
        return None
    RunFolder.check_links(output)
    run = RunFolder(output)
    changes = run.changed(config, dataset)
    changes = {name: new for name, new in changes.items() if name not in ("ranks", "exchange")}
    if run.finished and changes:  # but for those, which matter no more
        raise ValueError(
            f"{output} is finished and cannot go on with another {', '.join(changes)}; choose "
            f"another output"
        )
    return run


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


def _begin(
    resumed: RunFolder | None,
    model: DLRM,
    dataset: Dataset,
    config: ResolvedConfig,
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
    standing = resumed.load_checkpoint(model, use_previous)
    changes = resumed.changed(config, dataset)
    if changes:
        resumed.change(config, standing.step, changes)
    standing.records = resumed.restore(standing.records, standing.step)
    return resumed, standing
