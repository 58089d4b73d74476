"""The process that uses the GPU: it runs sections one after the other.

It tells `gpu_check.py` which section begins and waits for an answer, so that background programs
can be paused first. A section that leaves the GPU unusable ends the process, and a new one runs the
rest.
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
# A module of perf.gpu.sections and a function: imported late, so that a failure hits one section.
SECTIONS = {
    "versions": ("versions", "run"),
    "digests": ("small_checks", "run"),
    "times": ("function_times", "times"),
    "peers": ("function_times", "peer_times"),
    "step": ("model_times", "step"),
    "inference": ("model_times", "inference"),
    "host": ("function_times", "host_times"),
    "kernels": ("function_times", "kernel_times"),
}
UNUSABLE = 3  # exit status


def main(sections: list[str], options: Namespace) -> int:
    """Run sections; return the exit status."""
    warnings.filterwarnings("ignore", "overflow encountered", RuntimeWarning)  # simulated hashes
    for section in sections:
        print(f"{BEGINS} {section}", flush=True)
        sys.stdin.readline()
        begun = time.perf_counter()
        try:
            places.use("cuda")
            report = Report(options.output, section)
            module, function = SECTIONS[section]
            getattr(import_module(f"perf.gpu.sections.{module}"), function)(report, options)
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
    """Whether GPU calls still succeed: after an invalid access none does."""
    try:
        places.here().release()
        if not places.here().simulated and places.here().device == "cuda":
            places.here().xp.cuda.Device().synchronize()
    except Exception:
        traceback.print_exc(file=sys.stdout)
        return False
    return True
