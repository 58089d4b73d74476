"""Progress of commands on stderr: bars on a terminal, elsewhere a line now and then.

`robe_numba.cli.display` draws it, and is imported late so that `--help` is quick.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robe_numba.cli import loading
from robe_numba.formatting import format_bytes
from robe_numba.training.watchers.base import Watcher

if TYPE_CHECKING:
    from rich.progress import TaskID

    from robe_numba.cli.display import Display
    from robe_numba.dlrm import DLRM
    from robe_numba.parallel.exchange import ExchangePlan

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show results only, no progress.")]


@contextmanager
def showing(quiet: bool) -> "Iterator[Display]":
    """Show the tasks that the block adds to the display."""
    with loading():
        from robe_numba.cli.display import make_display

    with make_display(quiet) as display:
        yield display


@contextmanager
def tracking(title: str, quiet: bool, unit: str = "rows") -> Iterator[Callable[..., None]]:
    """Show one task; the block reports its progress by calling the function with (done, total)."""
    with showing(quiet) as display:
        task = display.add(title, unit)
        yield lambda done, total, *_: display.update(task, completed=done, total=total)


class TrainingProgress(Watcher):
    """Shows the progress of training and scoring.

    Parameters
    ----------
    display : Display
        Where to show it.
    title : str
        What is trained.
    batch_size : int
        Rows per step: progress is shown in rows.
    processes : int
        Number of processes that train together.
    """

    def __init__(self, display: "Display", title: str, batch_size: int, processes: int = 1):
        self._display, self._title = display, title
        self._batch_size, self._processes = batch_size, processes
        self._training: TaskID | None = None
        self._waiting: TaskID | None = None
        self._auc = ""

    def counting(self, done: int, total: int) -> None:
        self._wait("counting ids", "columns", done, total)

    def scoring(self, done: int, total: int) -> None:
        self._wait("scoring", "rows", done, total)

    def _wait(self, title: str, unit: str, done: int, total: int) -> None:
        if self._waiting is None:
            self._waiting = self._display.add(title, unit, total)
        self._display.update(self._waiting, completed=done)
        if done == total:
            self._display.remove_task(self._waiting)
            self._waiting = None

    def begin(self, model: "DLRM", steps: int, done: int) -> None:
        total, completed = steps * self._batch_size, done * self._batch_size
        self._training = self._display.add(self._title, "rows", total, completed)

    def exchanging(self, plan: "ExchangePlan") -> None:
        """Say how many processes train, and what they exchange."""
        import numba

        threads = numba.get_num_threads()
        unit = "thread" if threads == 1 else "threads"
        self._display.tell(f"{self._processes} processes of {threads} {unit}: {plan}", early=True)

    def step(self, step: int, loss: float) -> None:
        if self._training is not None and step % 16 == 0:
            note = f"loss {float(loss):.4f}{self._auc}"
            self._display.update(self._training, completed=step * self._batch_size, note=note)

    def evaluated(self, record: dict[str, Any]) -> None:
        """Show the validation AUC, and what communication took since the last one."""
        if "validation" in record:
            auc, carried = record["validation"]["auc"], record.get("communication")
            words = "AUC not defined" if auc is None else f"AUC {auc:.4f}"
            self._auc = f", validation {words}"
            if carried is not None:
                words += (
                    f"; received {format_bytes(carried['bytes'])} in {carried['seconds']:.1f} s of "
                    f"communication, waited {carried['waited']:.1f} s for it"
                )
            self._display.tell(f"{self._title}: step {record['step']:,}, validation {words}")
        if "test" in record and self._training is not None:
            self._display.remove_task(self._training)
            self._training = None
