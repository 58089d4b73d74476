"""The steps of a run: train, evaluate, write checkpoints, and know when to stop."""

import math
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

from data_tools import Dataset, Split
from robe_numba.dlrm import DLRM
from robe_numba.parallel.data_parallel import DataParallel
from robe_numba.parallel.replica_check import ReplicaError, check_replicas
from robe_numba.training.model_builder import list_sizes
from robe_numba.training.run.checkpoints import TrainingState
from robe_numba.training.run.root_only import RootOnlyRun
from robe_numba.training.scoring import evaluate
from robe_numba.training.watchers.base import Watcher

STEPS_PER_READ = 16  # of the losses of a model on a GPU
CONTINUE, CHECKPOINT, STOP = range(3)  # what the processes agree on between two steps
REPEATED_SECONDS = 60.0  # of the last steps that a kill during the test may cost


class AgreedStop(KeyboardInterrupt):
    """Ctrl-C, at which all processes stop between the same two steps."""


class TrainingError(RuntimeError):
    """Training cannot continue; the message says where it stopped and why."""


@dataclass
class Learner:
    """Trains the model of a run, in each of the processes that train together.

    Parameters
    ----------
    dataset : Dataset
        Labelled.
    train_rows : Split
        Its training rows.
    model : DLRM
        In the state of the run.
    run : RootOnlyRun
        The run, which has started.
    watcher : Watcher
        Is told of each step and evaluation.
    threads : int, optional
        For scoring, as for `train`.
    checkpoint_seconds : float, optional
        Between checkpoints; None writes none.
    state : TrainingState
        Where the run is.
    """

    dataset: Dataset
    train_rows: Split
    model: DLRM
    run: RootOnlyRun
    watcher: Watcher
    threads: int | None
    checkpoint_seconds: float | None
    state: TrainingState

    def __post_init__(self) -> None:
        config = self.config = self.run.config
        self._steps_per_epoch = math.ceil(self.train_rows.num_rows / config.batch_size)
        self._total_steps = config.epochs * self._steps_per_epoch
        self._schedule = config.schedule(self._total_steps)
        self._trainer = DataParallel(
            self.model,
            self.run.group,
            config.batch_size,
            self.dataset.manifest.index_dtype,
            config.exchange,
            list_sizes(self.dataset),
        )
        self._unread: list[Any] = []  # losses of the latest steps, which may still be on a GPU
        self._saved, self._saved_step = time.perf_counter(), self.state.step
        self._started = self._saved - self.state.seconds  # as if the run had never paused

    def learn(self, check_interrupt: Callable[[], None]) -> None:
        """Make the steps that are left, or fewer if the settings stop early.

        `check_interrupt` is called between steps, and a run that it ends has a checkpoint.
        """
        state = self.state
        self.watcher.begin(self.model, self._total_steps, state.step)
        if self._trainer.plan is not None:
            self.watcher.exchanging(self._trainer.plan)
        while not self._is_over():
            self._learn_epoch(check_interrupt)
        if not any(r.get("step") == state.step and "validation" in r for r in state.records):
            self._read_losses()  # a resumed run may be over before its next evaluation
            self._validate()
        self._check(check_interrupt, REPEATED_SECONDS)

    def _learn_epoch(self, check_interrupt: Callable[[], None]) -> None:
        """Make the steps of an epoch that are left."""
        size, seed = self.config.batch_size, self.config.seed
        epoch, first = divmod(self.state.step, self._steps_per_epoch)
        self.watcher.epoch(epoch)
        peers = self.run.group.peers
        rows = self.train_rows.batches(size, seed, epoch, first=first, peers=peers)
        # Closed even if a step fails: its threads and memory would last as long as the error.
        with closing(rows) as batches:
            for batch in self.model.feed(batches):
                self._check(check_interrupt)
                done = self.state.step % self._steps_per_epoch * size
                self._step(batch, min(size, self.train_rows.num_rows - done))
                if self._is_over():
                    return

    def _is_over(self) -> bool:
        """Whether no step follows; by the state alone, so that a resumed run agrees."""
        config, state = self.config, self.state
        best = 0.0 if state.best is None else state.best
        reached = config.target_auc is not None and best >= config.target_auc
        out_of_patience = config.patience is not None and state.waited >= config.patience
        return state.step >= self._total_steps or reached or out_of_patience

    def _step(self, batch: Any, rows: int) -> None:
        """Make one step on a batch of `rows` rows, of which `batch` has this process's."""
        config, state = self.config, self.state
        factor = self._schedule.factor(state.step + 1)
        loss = self._trainer.train_step(
            batch.dense,
            batch.indices,
            batch.labels,
            rows,
            config.lr * factor,
            config.embedding_lr * factor,
            config.clip_norm,
            batch.multi_hot,
        )
        state.step += 1
        self._unread.append(loss)
        due = self._evaluation_is_due()
        # Reading a loss waits for a GPU, which should always have work in its queue.
        if self.model.device == "cpu" or state.step % STEPS_PER_READ == 0 or due:
            self._read_losses()
        self.watcher.step(state.step, loss)
        if due:
            self._validate()

    def _read_losses(self) -> None:
        """Add the losses of the latest steps to their sum; raise if one is not finite."""
        state = self.state
        first = state.step - len(self._unread) + 1
        for step, loss in enumerate(map(float, self._unread), start=first):
            if not math.isfinite(loss):
                epoch, batch = divmod(step - 1, self._steps_per_epoch)
                raise self._diverged(
                    f"the loss of step {step:,} is {loss}, at batch {batch:,} of epoch {epoch:,} "
                    f"(counted from 0)"
                )
            state.loss_sum += loss
            state.losses += 1
        self._unread.clear()

    def _check(self, check_interrupt: Callable[[], None], at_end: float | None = None) -> None:
        """Between two steps: stop at Ctrl-C, and write a checkpoint if one is due.

        Once the run is over, one is due `at_end` seconds after the last. The processes agree on
        what to do, even if only one was interrupted and their clocks differ.
        """
        group = self.run.group
        after = at_end if self._is_over() else self.checkpoint_seconds
        action = CONTINUE
        try:
            check_interrupt()
        except KeyboardInterrupt:
            action = STOP
        if action == CONTINUE and group.is_root and self._checkpoint_is_due(after):
            action = CHECKPOINT
        action = group.all_max(action)
        if action == STOP and group.broadcast(self._checkpoint_is_due(0)):
            self._write_checkpoint()
        if action == STOP:
            raise AgreedStop
        if action == CHECKPOINT:
            self._write_checkpoint()

    def _checkpoint_is_due(self, after: float | None) -> bool:
        """Whether the last checkpoint is `after` seconds old, and not of this step."""
        if after is None or self.checkpoint_seconds is None:
            return False
        age = time.perf_counter() - self._saved
        return age >= after and self.state.step > self._saved_step

    def _write_checkpoint(self) -> None:
        self._read_losses()
        self.state.seconds = time.perf_counter() - self._started
        try:
            self.run.write_checkpoint(self.model, self.state)
        except FloatingPointError as error:
            raise self._diverged(f"after step {self.state.step} {error}") from None
        self._saved, self._saved_step = time.perf_counter(), self.state.step

    def _evaluation_is_due(self) -> bool:
        step, per_epoch = self.state.step, self._steps_per_epoch
        if step == self._total_steps:
            return True
        if self.config.evaluation_steps is not None:
            return step % self.config.evaluation_steps == 0
        # Evenly spread over an epoch: step number ceil(per_epoch * n / evaluations), n = 1, 2, ...
        evaluations = min(self.config.evaluations, per_epoch)
        number = (step - 1) % per_epoch + 1
        return number * evaluations // per_epoch > (number - 1) * evaluations // per_epoch

    def _validate(self) -> None:
        """Score the validation rows, and keep the weights if they are the best so far."""
        state, epoch = self.state, self.state.step / self._steps_per_epoch
        self.watcher.evaluating(state.step, epoch)
        seconds = time.perf_counter() - self._started
        self._check_replicas(f"after step {state.step:,}")
        result = self._evaluate(self.model, "validation", f"after step {state.step:,}")
        auc = result["auc"]
        keep = auc is None or state.best is None or auc > state.best
        if keep:
            state.best, state.best_digest = auc, self.run.save_model(self.model)
        state.waited = 0 if keep else state.waited + 1
        record: dict[str, Any] = {"step": state.step, "epoch": epoch, "seconds": seconds}
        record["train_loss"] = state.loss_sum / state.losses
        if self._trainer.plan is not None:
            carried = asdict(self._trainer.traffic.take())
            record["communication"] = {"exchange": self._trainer.plan.exchange, **carried}
        state.loss_sum, state.losses = 0.0, 0
        self._record(record | {"validation": result, "kept": keep})

    def test(self) -> None:
        """Score the test rows with the best weights."""
        model = self.run.load_model(self.threads)
        self._record({"test": self._evaluate(model, "test", "of the test")})

    def _evaluate(self, model: DLRM, part: str, when: str) -> dict[str, Any]:
        config = self.config
        rows = self.dataset.split(part, config.fractions, config.split_by, config.seed)
        try:
            return evaluate(model, rows, self.watcher.scoring, self.run.group)
        except FloatingPointError as error:
            raise self._diverged(f"{when} {error}") from None

    def _check_replicas(self, when: str) -> None:
        try:
            check_replicas(self.run.group, self.model.parameters() | self.model.state(), when)
        except ReplicaError as error:
            raise TrainingError(
                f"{error}; --resume continues from the last checkpoint, or from the beginning"
            ) from None

    def _record(self, record: dict[str, Any]) -> None:
        self.run.append(record)
        self.state.records.append(record)
        self.watcher.evaluated(record)

    def _diverged(self, found: str) -> TrainingError:
        steps = self.run.checkpoint_steps()
        remedy = (
            f"--resume with it continues from the checkpoint of step {steps[0]:,}"
            if steps
            else "--overwrite starts again"
        )
        return TrainingError(
            f"{found}: training has diverged; use a lower lr (it was {self.config.lr}, of the "
            f"embedding {self.config.embedding_lr}) or a clip_norm; {remedy}"
        )
