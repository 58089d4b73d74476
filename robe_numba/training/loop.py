"""The training loop: batches in, weights and metrics out."""

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np

from data_tools import Dataset, Split
from robe_numba.dlrm import DLRM
from robe_numba.dlrm.placement import placement
from robe_numba.training.building import build_model, training_vocabulary
from robe_numba.training.config import TrainingConfig
from robe_numba.training.interrupts import deferred_interrupt
from robe_numba.training.run_folder import RunFolder
from robe_numba.training.scoring import evaluate

STEPS_PER_LOOK = 16  # at the losses of a model on a GPU


class TrainingError(RuntimeError):
    """Training cannot go on; the message says where it stopped and why."""


class TrainingInterrupted(KeyboardInterrupt):
    """Ctrl-C during training.

    Attributes
    ----------
    run : RunFolder   What was left; its weights can be scored.
    """

    def __init__(self, run: RunFolder):
        super().__init__()
        self.run = run


class Watcher:
    """Hears of a run as it goes; a command line draws a progress bar from this."""

    def counting(self, done: int, total: int) -> None:
        """Distinct ids are being counted: columns done, columns in all."""

    def begin(self, model: DLRM, steps: int) -> None:
        """The model is built; so many steps will follow."""

    def step(self, step: int, loss: float) -> None:
        """Step number `step`, counted from 1, is done; on a GPU it is begun, and the loss an array
        () there, until they are waited for.
        """

    def scoring(self, done: int, total: int) -> None:
        """Rows are being scored: rows done, rows in all."""

    def evaluated(self, record: dict[str, Any]) -> None:
        """A record was added to metrics.jsonl."""


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
) -> RunFolder:
    """Train a model on a dataset and leave a run folder; `write_report(run)` adds report.html.

    model.safetensors holds the weights of the best validation AUC so far, or the latest weights
    where AUC is not defined. The same dataset, config and machine give the same bytes, for any
    number of threads.

    Parameters
    ----------
    dataset : labelled.
    config : all settings.
    output : folder to make.
    threads : None takes all cores.
    vocabulary : distinct ids of the training rows, where the caller has them already.
    watcher : is told of each step and evaluation.
    overwrite : replace a run that stands in `output`.

    Returns
    -------
    the run; its last metrics record has the test metrics of the weights that were kept.

    Raises
    ------
    ValueError : the dataset has no labels or no training rows, or a setting does not fit it.
    FileExistsError : `output` is not empty.
    ImportError, OSError : the device cannot be used.
    TrainingError : loss or scores are not finite. What was saved before stays.
    TrainingInterrupted : Ctrl-C; the run has the best weights so far, or the latest.
    """
    config = config.resolved()
    watcher = watcher or Watcher()
    RunFolder.check_free(output, overwrite)
    if not dataset.labelled:
        raise ValueError("the dataset has no labels; training needs a labelled log")
    split = dataset.split("train", config.fractions, config.split_by, config.seed)
    if split.num_rows == 0:
        shares = "" if config.split_by == "day" else f", fractions {config.fractions}"
        raise ValueError(
            f"no training rows: {dataset.num_rows} rows, split by {config.split_by}{shares}"
        )
    with computing(config.device, threads):
        if vocabulary is None:
            vocabulary = training_vocabulary(dataset, config, watcher.counting)
        model = build_model(dataset, config, vocabulary, threads)
        with deferred_interrupt() as check_interrupt:
            run = RunFolder.create(output, config, dataset, model, overwrite)
            learner = _Learner(dataset, config, model, run, watcher, threads)
            try:
                learner.learn(split, check_interrupt)
            except KeyboardInterrupt:
                if not run.has_model:
                    run.save_model(model)
                raise TrainingInterrupted(run) from None
        learner.test()
    return run


@dataclass
class _Learner:
    """What a run keeps in mind while it trains."""

    dataset: Dataset
    config: TrainingConfig
    model: DLRM
    run: RunFolder
    watcher: Watcher
    threads: int | None
    best: float | None = None  # validation AUC of the saved weights

    def learn(self, split: Split, check_interrupt: Callable[[], None]) -> None:
        """All epochs, with evaluations evenly spread; stops between steps if asked to."""
        config = self.config
        assert config.batch_size is not None
        steps_per_epoch = math.ceil(split.num_rows / config.batch_size)
        evaluations = min(config.evaluations, steps_per_epoch)
        stops = {math.ceil(steps_per_epoch * n / evaluations) for n in range(1, evaluations + 1)}
        self.watcher.begin(self.model, config.epochs * steps_per_epoch)
        # A look at a loss waits for the GPU, which should have work waiting for it instead.
        steps_per_look = 1 if self.model.device == "cpu" else STEPS_PER_LOOK
        begun, losses, unseen = time.perf_counter(), [], []
        for epoch in range(config.epochs):
            # Closed even if a step fails: its threads and memory would last as long as the error.
            with closing(split.batches(config.batch_size, config.seed, epoch)) as batches:
                for number, batch in enumerate(self.model.feed(batches), start=1):
                    check_interrupt()
                    step = epoch * steps_per_epoch + number
                    unseen.append(self._step(batch))
                    if step % steps_per_look == 0 or number in stops:
                        losses += self._finite(step, unseen)
                        unseen = []
                    self.watcher.step(step, unseen[-1] if unseen else losses[-1])
                    if number in stops:
                        seconds = time.perf_counter() - begun
                        self._validate(
                            step, step / steps_per_epoch, float(np.mean(losses)), seconds
                        )
                        losses = []
        check_interrupt()

    def _step(self, batch: Any) -> Any:
        assert self.config.lr is not None
        return self.model.train_step(
            batch.dense, batch.indices, batch.labels, self.config.lr, self.config.embedding_lr
        )

    def _finite(self, step: int, losses: list[Any]) -> list[float]:
        """The losses of the steps up to `step` as floats."""
        values = [float(loss) for loss in losses]
        for number, value in enumerate(values, start=step - len(values) + 1):
            if not math.isfinite(value):
                raise self._diverged(f"the loss of step {number} is {value}")
        return values

    def _diverged(self, found: str) -> TrainingError:
        return TrainingError(
            f"{found}: training has diverged; use a lower lr (it was {self.config.lr}, of the "
            f"embedding {self.config.embedding_lr}) and overwrite this run"
        )

    def _validate(self, step: int, epoch: float, loss: float, seconds: float) -> None:
        try:
            result = evaluate(self.model, self._part("validation"), self.watcher.scoring)
        except FloatingPointError as error:
            raise self._diverged(f"after step {step} {error}") from None
        auc = result["auc"]
        keep = auc is None or self.best is None or auc > self.best
        if keep:
            self.run.save_model(self.model)
            self.best = auc
        self._record(
            {"step": step, "epoch": epoch, "seconds": seconds, "train_loss": loss}
            | {"validation": result, "kept": keep}
        )

    def test(self) -> None:
        """Score the test rows with the weights that were kept."""
        model = self.run.load_model(self.threads, self.config.device)
        self._record({"test": evaluate(model, self._part("test"), self.watcher.scoring)})

    def _part(self, name: str) -> Split:
        config = self.config
        return self.dataset.split(name, config.fractions, config.split_by, config.seed)

    def _record(self, record: dict[str, Any]) -> None:
        self.run.append(record)
        self.watcher.evaluated(record)
