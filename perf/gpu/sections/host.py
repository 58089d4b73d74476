"""What the host pays for a call: `bench_launch.py`'s figures, before any profiler was started."""

from typing import Any

from perf.gpu import bench_launch
from perf.gpu.checker.report import Report


def run(report: Report, options: Any) -> None:
    """Every public call on small batches."""
    calls = 2 if options.tiny else bench_launch.CALLS
    for cost in bench_launch.costs(calls, options.tiny, counted=False):
        report.time(cost.name, cost.times, unit="us")
