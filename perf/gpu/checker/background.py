"""What runs beside the worker: the tests, the checkers of memory, the host's training, ncu."""

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
from perf.harness.checkout import ROOT

LAUNCHES = [sys.executable, "-m", "perf.gpu.launch_each"]
TOOLS = ("memcheck", "racecheck")
# Sections in which these would disturb times, and the seconds that they get to end before.
HELD_IN = {
    ("tests", *TOOLS): (("times", "peers", "step", "inference", "host", "train", "kernels"), 15.0),
    ("train",): (("step", "inference", "host"), 20.0),
}
GOES_ON_AT = "sanitizer"  # after ncu


class Beside:
    """Programs by name, started early and asked for later.

    Parameters
    ----------
    supervisor : who has the folder and the time.
    scratch : a folder for logs of clicks and the like.
    rows : of the log that is trained on.
    simulated : no GPU is there; all of these need one.
    """

    def __init__(self, supervisor: Any, scratch: Path, rows: int, simulated: bool):
        self._supervisor, self._scratch = supervisor, scratch
        self._rows = 20_000 if supervisor.tiny else rows
        self._simulated = simulated
        self._programs: dict[str, Program] = {}

    def start(self, chosen: Sequence[str]) -> None:
        """Everything that was chosen and can run beside the rest."""
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
                command += ["--print-limit", "20", *LAUNCHES, "--tiny"]
                self._begin(tool, command, f"{tool}.log")
        if "train" in chosen:
            self._begin("train", self._training("cpu"), "train.log")

    def before(self, section: str) -> None:
        """Hold back what would disturb times, and let it go on after them."""
        for names, (sections, seconds) in HELD_IN.items():
            if section in sections:
                self._hold(names, seconds)
        if section == GOES_ON_AT:
            for program in self._programs.values():
                program.go_on()

    def run(self, section: str, limit: float) -> str:
        """Wait for what was started, or run it; what became of it."""
        if self._simulated:
            return "skipped: it needs a GPU"
        return getattr(self, f"_{section}")(Report(self._supervisor.folder, section), limit)

    def _tests(self, report: Report, limit: float) -> str:
        """The last lines of the GPU's tests."""
        program = self._programs["tests"]
        program.go_on()
        ended = program.wait(limit)
        program.end()
        self._supervisor.say(program.tail(30))
        last = program.tail(1).strip("= ")
        report.add("tests", result=last if ended else "out of time", exit=program.status)
        return "done" if ended else "out of time"

    def _sanitizer(self, report: Report, limit: float) -> str:
        """What the checkers of memory said."""
        if not shutil.which("compute-sanitizer"):
            return "skipped: compute-sanitizer is not on the PATH"
        until, results = time.monotonic() + limit, []
        for tool in TOOLS:
            program = self._programs[tool]
            program.go_on()
            ended = program.wait(until - time.monotonic())
            program.end()
            said = [line for line in program.tail(200).splitlines() if "SUMMARY" in line]
            self._supervisor.say(program.tail(8))
            result = said[-1].strip("= ") if said else "no summary"
            report.add(tool, result=result if ended else f"out of time; {result}")
            results.append(ended)
        return "done" if all(results) else "out of time"

    def _ncu(self, report: Report, limit: float) -> str:
        """Hardware counters of one launch each; of ncu's own choice, where it lacks some."""
        if not shutil.which("ncu"):
            return "skipped: ncu is not on the PATH"
        until = time.monotonic() + limit
        for chosen in (["--metrics", ",".join(ncu.METRICS)], ["--set", "basic"]):
            command = ["ncu", "--clock-control", "none", "--profile-from-start", "off", *chosen]
            command += ["--csv", "--page", "raw", "--print-units", "base", "--launch-count", "60"]
            command += LAUNCHES
            program = self._begin("ncu", command + ["--tiny"] * self._supervisor.tiny, "ncu.csv")
            ended = program.wait(until - time.monotonic())
            program.end()
            found = ncu.table(program.tail(10_000))
            if found or not ended:
                break
            self._supervisor.say(program.tail(15))
        self._supervisor.say(found or program.tail(15))
        report.add("ncu", result="done" if ended else "out of time", exit=program.status)
        return "done" if ended else "out of time"

    def _train(self, report: Report, limit: float) -> str:
        """The GPU's training, then the host's result, which may still be on its way."""
        until = time.monotonic() + limit
        host = self._programs["train"]
        host.go_on()
        there = self._begin("train, cuda", self._training("cuda"), "train.log")
        ended = there.wait(limit)
        host.wait(until - time.monotonic())
        for device, program in (("cuda", there), ("cpu", host)):
            program.end()
            for batch in training.BATCHES:
                run = training.result(device, self._scratch, batch)
                if run is None:
                    self._supervisor.say(f"  {device}, batches of {batch}: no result")
                    continue
                report.add(f"train {device} {batch}", **run._asdict())
        self._supervisor.say(host.tail(25))
        return "done" if ended else "out of time"

    def _training(self, device: str) -> list[str]:
        arguments = [device, str(self._scratch), str(self._rows)]
        return [sys.executable, "-m", "perf.gpu.sections.training", *arguments]

    def _begin(self, name: str, command: list[str], log: str) -> Program:
        path = self._supervisor.folder.resolve() / log
        program = Program(name, command, path, ROOT)
        self._programs[name] = program
        self._supervisor.say(f"beside the rest: {name}: {' '.join(command)}")
        return program

    def _hold(self, names: Sequence[str], seconds: float) -> None:
        """Wait for programs a little, then hold back what still runs."""
        until = time.monotonic() + min(seconds, self._supervisor.left)
        running = [
            program
            for name, program in self._programs.items()
            if name in names and program.status is None and not program.held
        ]
        for program in running:
            if not program.wait(until - time.monotonic()):
                program.hold()
                self._supervisor.say(f"{program.name} is held back after {program.seconds:.0f} s")
            else:
                self._supervisor.say(f"{program.name} ended with {program.status}")

    def close(self) -> None:
        """End whatever runs."""
        for program in self._programs.values():
            program.end()
