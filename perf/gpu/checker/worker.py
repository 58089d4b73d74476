"""The process that holds the GPU: runs sections one after the other, and fails in one at a time.

It tells `gpu_check.py` what begins and waits for a word, so that what runs beside it can be held
back. A section that leaves the GPU unusable ends the process; the next begins with the rest.
"""

import sys
import time
import traceback
import warnings
from argparse import Namespace
from importlib import import_module

from perf.gpu.checker.report import Report
from perf.harness import places

BEGINS, ENDS = "@begins", "@ends"  # lines for `gpu_check.py`, followed by a section's name
MODULES = {
    "versions": "versions",
    "digests": "small_checks",
    "times": "function_times",
    "peers": "rivals",
    "step": "whole_steps",
    "inference": "model_times",
    "host": "host",
    "kernels": "splits",
}
UNUSABLE = 3  # exit status


def main(sections: list[str], options: Namespace) -> int:
    """Run sections; the exit status."""
    warnings.filterwarnings("ignore", "overflow encountered", RuntimeWarning)  # simulated hashes
    for section in sections:
        print(f"{BEGINS} {section}", flush=True)
        sys.stdin.readline()
        begun = time.perf_counter()
        try:
            places.use("cuda")
            report = Report(options.output, section)
            import_module(f"perf.gpu.sections.{MODULES[section]}").run(report, options)
            result = f"FAILED in part: {', '.join(report.failed)}" if report.failed else "done"
        except Exception:
            traceback.print_exc(file=sys.stdout)
            result = "FAILED"
        usable = _usable()
        print(f"{ENDS} {section} {time.perf_counter() - begun:.1f} {result}", flush=True)
        if not usable:
            print("the GPU can no longer be used by this process", flush=True)
            return UNUSABLE
    return 0


def _usable() -> bool:
    """Whether calls of the GPU still succeed: after a bad access none does."""
    try:
        places.here().release()
        if not places.here().simulated and places.here().device == "cuda":
            places.here().xp.cuda.Device().synchronize()
    except Exception:
        traceback.print_exc(file=sys.stdout)
        return False
    return True
