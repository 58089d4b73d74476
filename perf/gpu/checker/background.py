"""Background programs of `gpu_check.py`: tests, memory checkers, training on the host, and ncu."""

import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from perf.gpu.checker import ncu
from perf.gpu.checker.program import Program
from perf.gpu.checker.report import Report
from perf.gpu.sections import training

ROOT = Path(__file__).resolve().parents[3]  # the checkout
LAUNCH_EACH = [sys.executable, "-m", "perf.gpu.launch_each"]
TOOLS = ("memcheck", "racecheck")
# Sections that these programs would disturb, and the seconds they get to end before.
PAUSED_IN = {
    ("tests", *TOOLS): (("times", "peers", "step", "inference", "host", "train", "kernels"), 15.0),
    ("train",): (("step", "inference", "host"), 20.0),
}
RESUMED_AT = "sanitizer"  # after ncu


class BackgroundPrograms:
    """Programs by name, started early and collected later.

    Parameters
    ----------
    supervisor : Supervisor
        It has the folder, the time and the log.
    scratch : Path
        A folder for click logs and runs.
    rows : int
        Of the log that is trained on.
    simulated : bool
        There is no GPU, which all of these need.
    """

    def __init__(self, supervisor: Any, scratch: Path, rows: int, simulated: bool):
        self._supervisor, self._scratch = supervisor, scratch
        self._rows = 20_000 if supervisor.tiny else rows
        self._simulated = simulated
        self._programs: dict[str, Program] = {}

    def start(self, chosen: Sequence[str]) -> None:
        """Start the chosen programs that can run in the background."""
        if self._simulated:
            return
        if "tests" in chosen:
            workers = max(1, min(8, (os.cpu_count() or 1) // 2))
            pytest = [sys.executable, "-m", "pytest", "--gpu", "tests/gpu", "-q"]
            pytest += ["-p", "no:cacheprovider", "-n", str(workers), "-W", "default"]
            pytest += ["--durations=10"]
            self._begin("tests", pytest, "tests.log")
        if "sanitizer" in chosen and shutil.which("compute-sanitizer"):
            for tool in TOOLS:
                command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9"]
                command += ["--print-limit", "20", *LAUNCH_EACH, "--tiny"]
                self._begin(tool, command, f"{tool}.log")
        if "train" in chosen:
            self._begin("train", self._training("cpu"), "train.log")

    def before(self, section: str) -> None:
        """Pause programs that would disturb a section's times; resume them after the last one."""
        for names, (sections, seconds) in PAUSED_IN.items():
            if section in sections:
                self._pause(names, seconds)
        if section == RESUMED_AT:
            for program in self._programs.values():
                program.resume()

    def run(self, section: str, limit: float) -> str:
        """Wait for a program, or run it; return what became of it."""
        if self._simulated:
            return "skipped: it needs a GPU"
        return getattr(self, f"_{section}")(Report(self._supervisor.folder, section), limit)

    def _tests(self, report: Report, limit: float) -> str:
        """The last lines of the GPU tests."""
        program = self._programs["tests"]
        ended = self._finish(program, limit, 30)
        last = program.tail(1).strip("= ")
        report.add("tests", result=last if ended else "out of time", exit=program.status)
        return _outcome(ended)

    def _sanitizer(self, report: Report, limit: float) -> str:
        """The summaries of the memory checkers."""
        if not shutil.which("compute-sanitizer"):
            return "skipped: compute-sanitizer is not on the PATH"
        until, results = time.monotonic() + limit, []
        for tool in TOOLS:
            program = self._programs[tool]
            ended = self._finish(program, until - time.monotonic(), 8)
            said = [line for line in program.tail(200).splitlines() if "SUMMARY" in line]
            result = said[-1].strip("= ") if said else "no summary"
            report.add(tool, result=result if ended else f"out of time; {result}")
            results.append(ended)
        return _outcome(all(results))

    def _ncu(self, report: Report, limit: float) -> str:
        """Hardware counters of one launch each."""
        if not shutil.which("ncu"):
            return "skipped: ncu is not on the PATH"
        until = time.monotonic() + limit
        for metrics in ncu.CHOICES:
            command = [*ncu.COMMAND, *metrics, *LAUNCH_EACH]
            program = self._begin("ncu", command + ["--tiny"] * self._supervisor.tiny, "ncu.csv")
            ended = program.wait(until - time.monotonic())
            program.end()
            found = ncu.table(program.tail(10_000))
            if found or not ended:
                break
            self._supervisor.say(program.tail(15))
        self._supervisor.say(found or program.tail(15))
        report.add("ncu", result=_outcome(ended), exit=program.status)
        return _outcome(ended)

    def _train(self, report: Report, limit: float) -> str:
        """Training on the GPU, then the result of the host, which may still be running."""
        until = time.monotonic() + limit
        host = self._programs["train"]
        host.resume()
        gpu = self._begin("train, cuda", self._training("cuda"), "train.log")
        ended = gpu.wait(limit)
        host.wait(until - time.monotonic())
        for device, program in (("cuda", gpu), ("cpu", host)):
            program.end()
            for batch in training.BATCHES:
                run = training.result(device, self._scratch, batch)
                if run is None:
                    self._supervisor.say(f"  {device}, batches of {batch}: no result")
                    continue
                report.add(f"train {device} {batch}", **run._asdict())
        self._supervisor.say(host.tail(25))
        return _outcome(ended)

    def _training(self, device: str) -> list[str]:
        arguments = [device, str(self._scratch), str(self._rows)]
        return [sys.executable, "-m", "perf.gpu.sections.training", *arguments]

    def _begin(self, name: str, command: list[str], log: str) -> Program:
        path = self._supervisor.folder.resolve() / log
        program = Program(name, command, path, ROOT)
        self._programs[name] = program
        self._supervisor.say(f"in the background: {name}: {' '.join(command)}")
        return program

    def _finish(self, program: Program, limit: float, lines: int) -> bool:
        """Let a program run to its end, or end it; print its last lines."""
        program.resume()
        ended = program.wait(limit)
        program.end()
        self._supervisor.say(program.tail(lines))
        return ended

    def _pause(self, names: Sequence[str], seconds: float) -> None:
        """Give programs a little time to end, then pause those that still run."""
        until = time.monotonic() + min(seconds, self._supervisor.left)
        running = [
            program
            for name, program in self._programs.items()
            if name in names and program.status is None and not program.paused
        ]
        for program in running:
            if not program.wait(until - time.monotonic()):
                program.pause()
                self._supervisor.say(f"{program.name} is paused after {program.seconds:.0f} s")
            else:
                self._supervisor.say(f"{program.name} ended with {program.status}")

    def close(self) -> None:
        """End all programs."""
        for program in self._programs.values():
            program.end()


def _outcome(ended: bool) -> str:
    return "done" if ended else "out of time"
