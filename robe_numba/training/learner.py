"""The steps of a run: learn, evaluate, keep checkpoints, and know when to stop."""

import math
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, field
from typing import Any

from data_tools import Dataset, Split
from robe_numba.dlrm import DLRM, Schedule
from robe_numba.parallel.data_parallel import DataParallel
from robe_numba.parallel.group import Group
from robe_numba.parallel.replica_check import ReplicaError, check_replicas
from robe_numba.training.config import ResolvedConfig
from robe_numba.training.run.checkpoints import Standing
from robe_numba.training.run.folder import RunFolder
from robe_numba.training.scoring import evaluate
from robe_numba.training.watchers.base import Watcher

STEPS_PER_LOOK = 16  # at the losses of a model on a GPU
GO_ON, CHECKPOINT, STOP = range(3)  # what the processes agree on between two steps
REPEATED_SECONDS = 60.0  # of steps at the end that may be lost to a kill while the test is scored


class AgreedStop(KeyboardInterrupt):
    """Ctrl-C, at which all processes stop between the same two steps."""


class TrainingError(RuntimeError):
    """Training cannot go on; the message says where it stopped and why."""


@dataclass
class Learner:
    """What a run keeps in mind while it trains; in each of the processes that train together.

    Parameters
    ----------
    config : resolved settings.
    model : in the state of `standing`.
    run : written to at rank 0 alone.
    group : the processes.
    threads : of scoring, as `train` takes them.
    checkpoint_seconds : between checkpoints; None writes none.
    standing : where the run is.
    """

    dataset: Dataset
    config: ResolvedConfig
    model: DLRM
    run: RunFolder
    group: Group
    watcher: Watcher
    threads: int | None
    checkpoint_seconds: float | None
    standing: Standing
    _steps_per_epoch: int = 0
    _total: int = 0
    _schedule: Schedule = field(default_factory=Schedule)
    _begun: float = 0.0  # as if all steps had been done without a pause
    _saved: float = 0.0  # when the last checkpoint was written
    _saved_step: int = 0  # the step it is of
    _unseen: list[Any] = field(default_factory=list)  # losses that are on a GPU still

    def __post_init__(self) -> None:
        config, index_dtype = self.config, self.dataset.manifest.index_dtype
        self._trainer = DataParallel(
            self.model, self.group, config.batch_size, index_dtype, config.exchange
        )

    def learn(self, split: Split, check_interrupt: Callable[[], None]) -> None:
        """All steps that are left, or fewer where the settings stop early.

        `check_interrupt` is called between steps, and a run that it ends has a checkpoint.
        """
        config, standing = self.config, self.standing
        self._steps_per_epoch = math.ceil(split.num_rows / config.batch_size)
        self._total = config.epochs * self._steps_per_epoch
        self._schedule = config.schedule(self._total)
        self._saved, self._saved_step = time.perf_counter(), standing.step
        self._begun = self._saved - standing.seconds
        self.watcher.begin(self.model, self._total, standing.step)
        if self._trainer.plan is not None:
            self.watcher.exchanging(self._trainer.plan)
        while not self._is_over():
            epoch, first = divmod(standing.step, self._steps_per_epoch)
            self.watcher.epoch(epoch)
            peers = self.group.peers
            # Closed even if a step fails: its threads and memory would last as long as the error.
            rows = split.batches(config.batch_size, config.seed, epoch, first=first, peers=peers)
            with closing(rows) as batches:
                for batch in self.model.feed(batches):
                    self._check(check_interrupt)
                    done = standing.step % self._steps_per_epoch * config.batch_size
                    self._step(batch, min(config.batch_size, split.num_rows - done))
                    if self._is_over():
                        break
        if not any(r.get("step") == standing.step and "validation" in r for r in standing.records):
            self._look()  # of a run that is over earlier than it was begun for
            self._validate()
        self._check(check_interrupt, REPEATED_SECONDS)

    def _is_over(self) -> bool:
        """Whether no step follows; it depends on the standing alone, so that resuming agrees."""
        config, standing = self.config, self.standing
        best = 0.0 if standing.best is None else standing.best
        reached = config.target_auc is not None and best >= config.target_auc
        tired = config.patience is not None and standing.waited >= config.patience
        return standing.step >= self._total or reached or tired

    def _check(self, check_interrupt: Callable[[], None], at_the_end: float | None = None) -> None:
        """Between two steps: heed Ctrl-C, and write a checkpoint where one is due.

        Once the run is over one is due `at_the_end` seconds after the last. Who was interrupted
        and whose clock has come is for all to know: they do the same, or nothing.
        """
        after = at_the_end if self._is_over() else self.checkpoint_seconds
        mine = GO_ON
        try:
            check_interrupt()
        except KeyboardInterrupt:
            mine = STOP
        if mine == GO_ON and self.group.is_root and self._is_due(after):
            mine = CHECKPOINT
        agreed = self.group.all_max(mine)
        if agreed == CHECKPOINT or (agreed == STOP and self.group.broadcast(self._is_due(0))):
            self._write_checkpoint()
        if agreed == STOP:
            raise AgreedStop

    def _is_due(self, after: float | None) -> bool:
        """Whether the last checkpoint is so many seconds and a step ago."""
        if after is None or self.checkpoint_seconds is None:
            return False
        past = time.perf_counter() - self._saved
        return past >= after and self.standing.step > self._saved_step

    def _write_checkpoint(self) -> None:
        self._look()
        self.standing.seconds = time.perf_counter() - self._begun
        run, standing = self.run, self.standing
        try:
            self.group.at_root(lambda: run.checkpoints.write(self.model, standing, run.model_path))
        except FloatingPointError as error:
            raise self._diverged(f"after step {standing.step} {error}") from None
        self._saved, self._saved_step = time.perf_counter(), standing.step

    def _step(self, batch: Any, rows: int) -> None:
        """One step on a batch of so many rows, of which `batch` has this process's."""
        config, standing = self.config, self.standing
        factor = self._schedule.factor(standing.step + 1)
        loss = self._trainer.train_step(
            batch.dense,
            batch.indices,
            batch.labels,
            rows,
            config.lr * factor,
            config.embedding_lr * factor,
            config.clip_norm,
        )
        standing.step += 1
        self._unseen.append(loss)
        due = self._evaluation_is_due()
        # A look at a loss waits for the GPU, which should have work waiting for it instead.
        if self.model.device == "cpu" or standing.step % STEPS_PER_LOOK == 0 or due:
            self._look()
        self.watcher.step(standing.step, loss)
        if due:
            self._validate()

    def _look(self) -> None:
        """Take the losses of the latest steps into the mean, if they are finite."""
        standing = self.standing
        first = standing.step - len(self._unseen) + 1
        for step, loss in enumerate(map(float, self._unseen), start=first):
            if not math.isfinite(loss):
                epoch, batch = divmod(step - 1, self._steps_per_epoch)
                raise self._diverged(
                    f"the loss of step {step:,} is {loss}, at batch {batch:,} of epoch {epoch:,} "
                    f"(counted from 0)"
                )
            standing.loss_sum += loss
            standing.losses += 1
        self._unseen.clear()

    def _diverged(self, found: str) -> TrainingError:
        steps = self.group.at_root(self.run.checkpoints.steps)
        kept = (
            f"--resume with it goes on from the checkpoint of step {steps[0]:,}"
            if steps
            else "--overwrite begins anew"
        )
        return TrainingError(
            f"{found}: training has diverged; use a lower lr (it was {self.config.lr}, of the "
            f"embedding {self.config.embedding_lr}) or a clip_norm; {kept}"
        )

    def _evaluation_is_due(self) -> bool:
        step, per_epoch = self.standing.step, self._steps_per_epoch
        if step == self._total:
            return True
        if self.config.evaluation_steps is not None:
            return step % self.config.evaluation_steps == 0
        # Evenly spread over an epoch: step number ceil(per_epoch * n / evaluations), n = 1, 2, ...
        evaluations = min(self.config.evaluations, per_epoch)
        number = (step - 1) % per_epoch + 1
        return number * evaluations // per_epoch > (number - 1) * evaluations // per_epoch

    def _validate(self) -> None:
        standing, epoch = self.standing, self.standing.step / self._steps_per_epoch
        self.watcher.evaluating(standing.step, epoch)
        seconds = time.perf_counter() - self._begun
        self._check_replicas(f"after step {standing.step:,}")
        try:
            validation = self._part("validation")
            result = evaluate(self.model, validation, self.watcher.scoring, self.group)
        except FloatingPointError as error:
            raise self._diverged(f"after step {standing.step:,} {error}") from None
        auc = result["auc"]
        keep = auc is None or standing.best is None or auc > standing.best
        if keep:
            save = self.run.save_model
            standing.best, standing.best_digest = auc, self.group.at_root(lambda: save(self.model))
        standing.waited = 0 if keep else standing.waited + 1
        record: dict[str, Any] = {"step": standing.step, "epoch": epoch, "seconds": seconds}
        record["train_loss"] = standing.loss_sum / standing.losses
        if self._trainer.plan is not None:
            carried = asdict(self._trainer.traffic.take())
            record["communication"] = {"exchange": self._trainer.plan.exchange, **carried}
        standing.loss_sum, standing.losses = 0.0, 0
        self._record(record | {"validation": result, "kept": keep})

    def _check_replicas(self, when: str) -> None:
        try:
            check_replicas(self.group, self.model.parameters() | self.model.state(), when)
        except ReplicaError as error:
            raise TrainingError(
                f"{error}; --resume goes on from the last checkpoint, or from the beginning"
            ) from None

    def test(self) -> None:
        """Score the test rows with the weights that were kept."""
        model = self.run.load_model(self.threads, self.config.device, self.group)
        try:
            result = evaluate(model, self._part("test"), self.watcher.scoring, self.group)
        except FloatingPointError as error:
            raise self._diverged(f"of the test {error}") from None
        self._record({"test": result})

    def _part(self, name: str) -> Split:
        config = self.config
        return self.dataset.split(name, config.fractions, config.split_by, config.seed)

    def _record(self, record: dict[str, Any]) -> None:
        self.group.at_root(lambda: self.run.append(record))
        self.standing.records.append(record)
        self.watcher.evaluated(record)
