"""Progress of tasks, drawn as bars or printed in lines."""

import math
import sys
import threading
import time
from contextlib import suppress

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

from robe_numba.cli.console import make_console
from robe_numba.formatting import format_bytes
from robe_numba.parallel.supervisor import launched

# A command of a few seconds prints nothing, and one of hours does not flood a log.
FIRST_LINE_SECONDS, LINE_SECONDS = 10.0, 60.0


class _Rate(ProgressColumn):
    """Units per second."""

    def render(self, task: Task) -> Text:
        return Text(rate(task), style="cyan")


class Display(Progress):
    """Bars that show what is done, how far, how fast, and how long it still takes.

    Parameters
    ----------
    console : Console
        Of stderr.
    hidden : bool
        Draw nothing.
    speed_seconds : float
        Longest time over which a speed is averaged.
    """

    def __init__(self, console: Console, hidden: bool = False, speed_seconds: float = 30.0):
        super().__init__(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            _Rate(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
            transient=True,
            redirect_stdout=False,  # results are printed as usual
            disable=hidden,
            speed_estimate_period=speed_seconds,
        )

    def add(self, title: str, unit: str, total: int | None = None, completed: int = 0) -> TaskID:
        """Show a task; its total may be set later."""
        return self.add_task(title, total=total, completed=completed, unit=unit, note="")

    def tell(self, text: str, early: bool = False) -> None:
        """Print a line, if progress is shown in lines."""


class LineDisplay(Display):
    """Prints the progress of all tasks to stderr now and then, from its own thread."""

    def __init__(self, console: Console) -> None:
        # Averaged without limit, so that runs of an hour each have a speed too.
        super().__init__(console, hidden=True, speed_seconds=math.inf)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._print_now_and_then, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._begun = time.monotonic()
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._ended.set()
        self._thread.join()

    def _print_now_and_then(self) -> None:
        seconds = FIRST_LINE_SECONDS
        while not self._ended.wait(seconds):
            _write("; ".join(map(line, self.tasks)))
            seconds = LINE_SECONDS

    def tell(self, text: str, early: bool = False) -> None:
        """Print a line; in the first seconds of a command, which may end soon, only if `early`."""
        if early or time.monotonic() - self._begun >= FIRST_LINE_SECONDS:
            _write(text)


def make_display(quiet: bool) -> Display:
    """Bars if stderr is a terminal, else lines, also under a launcher that forwards stderr."""
    console = make_console(stderr=True)
    if quiet:
        return Display(console, hidden=True)
    terminal = sys.stderr is not None and sys.stderr.isatty() and console.is_interactive
    return Display(console) if terminal and launched() is None else LineDisplay(console)


def line(task: Task) -> str:
    """A task in words: what, how far, how fast, how long still."""
    if task.total is None:
        return f"{task.description}: started"
    unit = task.fields["unit"]
    parts = [
        f"{amount(task.completed, unit)} of {amount(task.total, unit)} ({task.percentage:.0f}%)"
    ]
    if task.speed:
        parts.append(rate(task))
    if task.time_remaining is not None and not task.finished:
        minutes, seconds = divmod(round(task.time_remaining), 60)
        parts.append(f"{minutes // 60}:{minutes % 60:02}:{seconds:02} left")
    parts += [task.fields["note"]] * bool(task.fields["note"])
    return f"{task.description}: {', '.join(parts)}"


def amount(number: float, unit: str) -> str:
    """An amount with its unit."""
    return format_bytes(number) if unit == "bytes" else f"{number:,.0f} {unit}"


def rate(task: Task) -> str:
    """How fast a task is, per hour if it is slow; "" while that is unknown."""
    speed, unit = task.finished_speed or task.speed, task.fields["unit"]
    if not speed:
        return ""
    if unit != "bytes" and speed < 1:
        return f"{3600 * speed:,.1f} {unit}/h"
    return f"{amount(speed, unit)}/s"


def _write(text: str) -> None:
    """Print to stderr, unless it is closed."""
    if text and sys.stderr is not None:
        with suppress(OSError):
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()
