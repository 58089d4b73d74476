"""Check and measure everything on a GPU in under six minutes.

    python perf/gpu_check.py --output FOLDER
    python perf/gpu_check.py --output FOLDER --only versions,times,peers
    NUMBA_ENABLE_CUDASIM=1 python perf/gpu_check.py --output FOLDER --tiny

Sections fail one at a time: each has a time limit, and one that breaks the GPU's context costs a
new process. Everything is printed and written as it comes, to at most eight files: check.log,
results.jsonl, summary.md, tests.log, train.log, ncu.csv, memcheck.log, racecheck.log. Tests, memory
checkers and training on the host run in the background; they are paused while times are taken that
they would disturb.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from perf.gpu.checker import summary, worker
from perf.gpu.checker.background import BackgroundPrograms
from perf.gpu.checker.supervisor import Supervisor

FILES = (
    *("check.log", "results.jsonl", "summary.md", "tests.log", "train.log", "ncu.csv"),
    *("memcheck.log", "racecheck.log"),
)
SECONDS = 350.0  # of a whole run
ROWS = 2_000_000  # of the log that is trained on
# In this order, with a limit in seconds for each.
LIMITS = {
    "versions": 40,
    "digests": 90,
    "times": 75,
    "peers": 60,
    "step": 45,
    "inference": 60,
    "host": 30,
    "train": 60,
    "kernels": 40,
    "ncu": 60,
    "sanitizer": 40,
    "tests": 40,
}


def main() -> None:
    """Run the sections, then print the table."""
    options = parse()
    if options.worker:
        sys.exit(worker.main(options.only, options))
    options.output.mkdir(parents=True, exist_ok=True)
    for name in FILES:  # results of two runs do not mix
        (options.output / name).unlink(missing_ok=True)
    simulated = bool(int(os.environ.get("NUMBA_ENABLE_CUDASIM", "0") or 0))
    if simulated:  # all arithmetic in Python
        os.environ["NUMBA_DISABLE_JIT"] = "1"
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as scratch:
        supervisor = Supervisor(options.output, time.monotonic() + options.seconds, options.tiny)
        programs = BackgroundPrograms(supervisor, Path(scratch), options.rows, simulated)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # runs `finally`
        try:
            programs.start(options.only)
            for section in LIMITS:
                if section in options.only:
                    supervisor.run(section, LIMITS[section], options.only, programs)
        finally:
            supervisor.close()
            programs.close()
            supervisor.say(summary.write(options.output))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="folder for all results")
    parser.add_argument("--only", default=",".join(LIMITS), help=f"a list of {','.join(LIMITS)}")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes, to try it out")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of the whole run")
    parser.add_argument("--rows", type=int, default=ROWS, help="of the log that is trained on")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.only = options.only.split(",")
    unknown = [name for name in options.only if name not in LIMITS]
    if unknown:
        parser.error(f"--only has {unknown}; use a list of {','.join(LIMITS)}")
    if options.worker and any(name not in worker.SECTIONS for name in options.only):
        parser.error("--worker runs only its own sections")
    return options


if __name__ == "__main__":
    main()
