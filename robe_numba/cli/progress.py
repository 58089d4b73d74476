"""How far a command is, and how long it still takes.

It is shown on stderr: as bars on a terminal; elsewhere, as in a batch system, in a line now and
then. Drawing is in `robe_numba.cli.display`, which `--help` need not wait for.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robe_numba.cli import loading
from robe_numba.training.watchers.base import Watcher

if TYPE_CHECKING:
    from rich.progress import TaskID

    from robe_numba.cli.display import Display
    from robe_numba.dlrm import DLRM
    from robe_numba.parallel.exchange import ExchangePlan

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show results alone, no progress.")]


@contextmanager
def showing(quiet: bool) -> "Iterator[Display]":
    """Within the block, show the tasks that are added to what it yields."""
    with loading():
        from robe_numba.cli.display import make_display

    with make_display(quiet) as display:
        yield display


@contextmanager
def tracking(title: str, quiet: bool, unit: str = "rows") -> Iterator[Callable[..., None]]:
    """Show one task, which moves on by calling the yielded function with (done, total)."""
    with showing(quiet) as display:
        task = display.add(title, unit)
        yield lambda done, total, *_: display.update(task, completed=done, total=total)


class TrainingProgress(Watcher):
    """Shows a run as it goes: how far the training is, and what it waits for.

    Parameters
    ----------
    display : where to show it.
    title : what is being trained.
    batch_size : rows per step, to show rows rather than steps.
    processes : how many train together.
    """

    def __init__(self, display: "Display", title: str, batch_size: int, processes: int = 1):
        self._display, self._title = display, title
        self._batch_size, self._processes = batch_size, processes
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
            self._waiting = self._display.add(title, unit, total)
        self._display.update(self._waiting, completed=done)
        if done == total:
            self._display.remove_task(self._waiting)
            self._waiting = None

    def begin(self, model: "DLRM", steps: int, done: int) -> None:
        """Show the training."""
        total, completed = steps * self._batch_size, done * self._batch_size
        self._training = self._display.add(self._title, "rows", total, completed)

    def exchanging(self, plan: "ExchangePlan") -> None:
        """Tell who trains, and what they bring each other."""
        import numba

        threads = numba.get_num_threads()
        unit = "thread" if threads == 1 else "threads"
        self._display.tell(f"{self._processes} processes of {threads} {unit}: {plan}", early=True)

    def step(self, step: int, loss: float) -> None:
        """Move on."""
        if self._training is not None and step % 16 == 0:
            note = f"loss {float(loss):.4f}{self._auc}"
            self._display.update(self._training, completed=step * self._batch_size, note=note)

    def evaluated(self, record: dict[str, Any]) -> None:
        """Show the validation AUC, and tell what communication took since the last."""
        if "validation" in record:
            auc, carried = record["validation"]["auc"], record.get("communication")
            words = "AUC not defined" if auc is None else f"AUC {auc:.4f}"
            self._auc = f", validation {words}"
            if carried is not None:
                words += (
                    f"; {carried['bytes'] / 1e6:,.1f} MB came in {carried['seconds']:.1f} s of "
                    f"communication, {carried['waited']:.1f} s waited for"
                )
            self._display.tell(f"{self._title}: step {record['step']:,}, validation {words}")
        if "test" in record and self._training is not None:
            self._display.remove_task(self._training)
            self._training = None
