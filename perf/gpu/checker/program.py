"""A background program that can be paused while times are taken."""

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path


class Program:
    """A program in its own process group, with its output in a file.

    Parameters
    ----------
    name : str
        For messages.
    command : sequence of str
        The command line.
    log : Path
        Stdout and stderr are appended to it.
    folder : Path
        The working directory.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        folder: Path,
    ):
        self.name, self.log, self.paused = name, log, False
        self._begun = time.monotonic()
        with log.open("a") as output:
            self._process = subprocess.Popen(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=folder,
                process_group=0,
            )

    @property
    def status(self) -> int | None:
        """The exit status, or None while it runs."""
        return self._process.poll()

    @property
    def seconds(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self._begun

    def wait(self, seconds: float) -> bool:
        """Wait up to `seconds`; return whether the program has ended."""
        try:
            self._process.wait(max(seconds, 0))
        except subprocess.TimeoutExpired:
            return False
        return True

    def pause(self) -> None:
        """Stop it until `resume`."""
        if self.status is None and not self.paused:
            self.paused = True
            os.killpg(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it run again."""
        if self.paused:
            self.paused = False
            if self.status is None:
                os.killpg(self._process.pid, signal.SIGCONT)

    def end(self) -> None:
        """Kill it and its children."""
        if self.status is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def tail(self, lines: int) -> str:
        """The last lines of its output."""
        text = self.log.read_text(errors="replace") if self.log.is_file() else ""
        return "\n".join(text.splitlines()[-lines:])
