"""Which kernels a call launches, how often, and how long each takes: by torch's profiler."""

import json
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from perf.gpu.device_times import wait
from perf.harness.libraries import torch

DEVICE_WORK = ("kernel", "gpu_memcpy", "gpu_memset")  # categories of its trace


class Kernel(NamedTuple):
    """What a call launches under one name."""

    name: str
    launches: float  # per call
    microseconds: float  # per call, all launches together


def kernels_of(run: Callable[[], object], calls: int = 5) -> list[Kernel]:
    """Kernels, copies and fills of one call, the longest first.

    Raises
    ------
    RuntimeError : the profiler saw none.
    """
    if torch is None:
        raise RuntimeError("kernels are told apart by torch's profiler; install torch")
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
    found = [Kernel(n, len(d) / calls, sum(d) / calls) for n, d in durations.items()]
    return sorted(found, key=lambda kernel: -kernel.microseconds)
