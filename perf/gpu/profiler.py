"""Which kernels a call launches, how often, and how long they take, by torch's profiler."""

import json
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from perf.gpu.device_times import wait
from perf.harness.libraries import torch

DEVICE_WORK = ("kernel", "gpu_memcpy", "gpu_memset")  # categories of the profiler's trace


class KernelTime(NamedTuple):
    """The launches of one kernel in a call."""

    name: str
    launches: float  # per call
    microseconds: float  # per call, all launches together


def kernels_of(run: Callable[[], object], calls: int = 5) -> list[KernelTime]:
    """Kernels, copies and fills of one call, the longest first.

    Raises
    ------
    RuntimeError
        torch is not installed, or its profiler saw no kernel.
    """
    if torch is None:
        raise RuntimeError("kernels are timed by torch's profiler; install torch")
    run()
    wait()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(calls):
            run()
        wait()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    durations = defaultdict(list)
    for event in events:
        if event.get("cat") in DEVICE_WORK:
            durations[event["name"]].append(event["dur"])
    if not durations:
        raise RuntimeError("torch's profiler saw no kernel")
    found = [KernelTime(n, len(d) / calls, sum(d) / calls) for n, d in durations.items()]
    return sorted(found, key=lambda kernel: -kernel.microseconds)
