"""Other programs beside the measurements: started early, held back while times are taken."""

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path


class Program:
    """A program in a process group of its own, its output in a file.

    Parameters
    ----------
    name : for messages.
    command : what is run.
    log : gets stdout and stderr, after what is there.
    folder : where it works.
    environment : added to this process's.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        folder: Path,
        environment: dict[str, str] | None = None,
    ):
        self.name, self.log, self.held = name, log, False
        self._begun = time.monotonic()
        with log.open("a") as output:
            self._process = subprocess.Popen(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=folder,
                env=os.environ | (environment or {}),
                process_group=0,
            )

    @property
    def status(self) -> int | None:
        """The exit status; None while it runs."""
        return self._process.poll()

    @property
    def seconds(self) -> float:
        """Since it was started."""
        return time.monotonic() - self._begun

    def wait(self, seconds: float) -> bool:
        """Wait up to `seconds`; whether the program has ended."""
        try:
            self._process.wait(max(seconds, 0))
        except subprocess.TimeoutExpired:
            return False
        return True

    def hold(self) -> None:
        """Stop it until `go_on`."""
        if self.status is None and not self.held:
            self.held = True
            os.killpg(self._process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it run again."""
        if self.held:
            self.held = False
            if self.status is None:
                os.killpg(self._process.pid, signal.SIGCONT)

    def end(self) -> None:
        """Kill it with all its children."""
        if self.status is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def tail(self, lines: int) -> str:
        """The end of its output."""
        text = self.log.read_text(errors="replace") if self.log.is_file() else ""
        return "\n".join(text.splitlines()[-lines:])
