"""The process that does not use the GPU: it starts the worker, keeps limits and logs."""

import queue
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from perf.gpu.checker.worker import BEGINS, ENDS, SECTIONS

WORKER = [sys.executable, "-u", "-m", "perf.gpu_check", "--worker"]
SHORTEST = 3.0  # seconds: a section with less time is not started


class Supervisor:
    """Runs sections until a deadline; a section that hangs is killed, and the others still run.

    Parameters
    ----------
    folder : Path
        For all files.
    deadline : float
        By `time.monotonic`.
    tiny : bool
        Use tiny shapes.
    """

    def __init__(self, folder: Path, deadline: float, tiny: bool):
        self.folder, self.deadline, self.tiny = folder, deadline, tiny
        self._log = folder / "check.log"
        self._begun = time.monotonic()
        self._worker: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str | None] = queue.Queue()

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()

    def say(self, text: str) -> None:
        """Print, and write to the log."""
        print(text, flush=True)
        with self._log.open("a") as log:
            log.write(text + "\n")

    def run(self, section: str, limit: float, chosen: Sequence[str], programs: Any) -> None:
        """Run one section; a failure is reported, not raised."""
        programs.before(section)
        limit = min(limit, self.left)
        at = time.monotonic() - self._begun
        if limit < SHORTEST:
            self.say(f"== {section}: no time is left, at {at:.0f} s")
            return
        self.say(f"\n== {section}, at {at:.0f} s, at most {limit:.0f} s")
        begun = time.monotonic()
        try:
            if section in SECTIONS:
                result = self._in_worker(section, limit, chosen)
            else:
                result = programs.run(section, limit)
        except Exception:
            self.say(traceback.format_exc())
            result = "FAILED"
        self.say(f"== {section}: {result}, {time.monotonic() - begun:.1f} s")

    def close(self) -> None:
        """End the worker."""
        if self._worker is None:
            return
        self._worker.kill()
        self._worker.wait()
        assert self._worker.stdin is not None
        self._worker.stdin.close()
        self._worker = None

    def _in_worker(self, section: str, limit: float, chosen: Sequence[str]) -> str:
        """Let the worker begin, and print its output until it is done."""
        until, begun = time.monotonic() + limit, False
        if self._worker is None:
            self._start(section, chosen)
        while True:
            line = self._next(until)
            if line is None:
                fresh = time.monotonic() < until
                self.close()
                if begun or not fresh:
                    return "FAILED: the process ended" if fresh else "out of time"
                self._start(section, chosen)  # the last one left the GPU unusable
                begun = True
            elif line.startswith(BEGINS):
                begun = True
                self._answer()
            elif line.startswith(ENDS):
                _, _, seconds, result = line.split(maxsplit=3)
                return f"{result} ({seconds} s without start)"
            else:
                self.say(line)

    def _next(self, until: float) -> str | None:
        try:
            return self._lines.get(timeout=max(until - time.monotonic(), 0))
        except queue.Empty:
            return None

    def _answer(self) -> None:
        assert self._worker is not None
        assert self._worker.stdin is not None
        self._worker.stdin.write("go\n")
        self._worker.stdin.flush()

    def _start(self, section: str, chosen: Sequence[str]) -> None:
        """Start a new process for this section and those that follow."""
        order = [name for name in SECTIONS if name in chosen]
        rest = order[order.index(section) :]
        command = [*WORKER, "--output", str(self.folder), "--only", ",".join(rest)]
        command += ["--tiny"] * self.tiny
        self._worker = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        self._lines = queue.Queue()
        threading.Thread(target=_read, args=(self._worker, self._lines), daemon=True).start()


def _read(worker: "subprocess.Popen[str]", lines: "queue.Queue[str | None]") -> None:
    """Queue the lines of a worker as they come, then None."""
    assert worker.stdout is not None
    with worker.stdout:
        for line in worker.stdout:
            lines.put(line.rstrip("\n"))
    lines.put(None)
