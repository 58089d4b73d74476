"""Progress bars with rate and time left."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numba
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from robe_numba.dlrm import DLRM
from robe_numba.parallel.exchange import Plan
from robe_numba.parallel.supervisor import launched
from robe_numba.training import Watcher

console = Console(soft_wrap=True, highlight=False)


class _Rate(ProgressColumn):
    """Units per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        unit = task.fields.get("unit", "rows")
        return Text("" if speed is None else f"{speed:,.0f} {unit}/s", style="cyan")


def bar() -> Progress:
    """A bar: what, how far, how fast, how long still."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        _Rate(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        transient=True,
        # A file or a pipe gets the results alone, and so does what a launcher passes on, even
        # where it is a terminal to this process.
        disable=not console.is_terminal or launched() is not None,
    )


@contextmanager
def tracking(title: str, unit: str = "rows") -> Iterator[Callable[..., None]]:
    """A bar that is moved by calling the yielded function with (done, total)."""
    with bar() as progress:
        task = progress.add_task(title, total=None, unit=unit, note="")
        yield lambda done, total, *_: progress.update(task, completed=done, total=total)


class TrainingBar(Watcher):
    """Shows a run as it goes: a bar of the training, and one of what it waits for.

    Parameters
    ----------
    progress : the bars to draw on.
    title : what is being trained.
    batch_size : rows per step, to show rows rather than steps.
    """

    def __init__(self, progress: Progress, title: str, batch_size: int):
        self._progress, self._title, self._batch_size = progress, title, batch_size
        self._training: TaskID | None = None
        self._waiting: TaskID | None = None
        self._auc = ""

    def counting(self, done: int, total: int) -> None:
        """Show the pass over the ids."""
        self._wait("counting ids", "columns", done, total)

    def scoring(self, done: int, total: int) -> None:
        """Show an evaluation."""
        self._wait("scoring", "rows", done, total)

    def _wait(self, title: str, unit: str, done: int, total: int) -> None:
        if self._waiting is None:
            self._waiting = self._progress.add_task(title, total=total, unit=unit, note="")
        self._progress.update(self._waiting, completed=done)
        if done == total:
            self._progress.remove_task(self._waiting)
            self._waiting = None

    def begin(self, model: DLRM, steps: int, done: int) -> None:
        """Add the bar of the training."""
        self._training = self._progress.add_task(
            self._title,
            total=steps * self._batch_size,
            completed=done * self._batch_size,
            unit="rows",
            note="",
        )

    def step(self, step: int, loss: float) -> None:
        """Move the bar."""
        if self._training is not None and step % 16 == 0:
            note = f"loss {float(loss):.4f}{self._auc}"
            self._progress.update(self._training, completed=step * self._batch_size, note=note)

    def evaluated(self, record: dict[str, Any]) -> None:
        """Show the validation AUC beside the loss."""
        auc = record.get("validation", {}).get("auc")
        if auc is not None:
            self._auc = f", validation AUC {auc:.4f}"
        if "test" in record and self._training is not None:
            self._progress.remove_task(self._training)


class TrainingLines(Watcher):
    """Tells of a run in lines, for output that is passed on and kept: every few seconds how far it
    is, how fast, and how long still.

    Parameters
    ----------
    batch_size : rows per step, to tell rows rather than steps.
    processes : how many train together.
    """

    seconds = 10.0  # between lines

    def __init__(self, batch_size: int, processes: int):
        self._batch_size, self._processes = batch_size, processes
        self._steps, self._told_step = 0, -1
        self._told = 0.0

    def begin(self, model: DLRM, steps: int, done: int) -> None:
        """Note how many there will be."""
        self._steps = steps

    def exchanging(self, plan: Plan) -> None:
        """Tell who trains, and what they bring each other."""
        threads = numba.get_num_threads()
        unit = "thread" if threads == 1 else "threads"
        console.print(f"{self._processes} processes of {threads} {unit}: {plan}")

    def step(self, step: int, loss: float) -> None:
        """Tell where the run is, if some time has passed."""
        if self._told_step < 0:  # the first may have waited for kernels to be compiled
            self._told_step, self._told = step, time.monotonic()
        passed = time.monotonic() - self._told
        if passed < self.seconds:
            return
        rate = (step - self._told_step) / passed
        minutes, seconds = divmod(round((self._steps - step) / rate), 60)
        console.print(
            f"step {step:,} of {self._steps:,} ({step / self._steps:.0%}), "
            f"{rate * self._batch_size:,.0f} rows/s, {minutes}:{seconds:02} left, "
            f"loss {float(loss):.4f}"
        )
        self._told_step, self._told = step, time.monotonic()

    def evaluated(self, record: dict[str, Any]) -> None:
        """Tell the validation AUC, and what communication took since the last."""
        if "validation" not in record:
            return
        auc, carried = record["validation"]["auc"], record.get("communication")
        words = "AUC not defined" if auc is None else f"AUC {auc:.4f}"
        if carried is not None:
            words += (
                f"; {carried['bytes'] / 1e6:,.1f} MB came in {carried['seconds']:.1f} s of "
                f"communication, {carried['waited']:.1f} s waited for"
            )
        console.print(f"step {record['step']:,}: validation {words}")
