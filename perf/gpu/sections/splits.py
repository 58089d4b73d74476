"""What calls are made of: their kernels by torch's profiler."""

from dataclasses import replace
from typing import Any

from perf import bench_dlrm
from perf.gpu import calls
from perf.gpu.checker.report import Report
from perf.gpu.profiler import kernels_of
from perf.harness.places import here

SHOWN = 12  # kernels of each call
SPLIT = (
    "lookup S1 Z=128 alignment 1",
    "bags S3 Z=64 alignment 1",
    "update S1 SGD, uniform ids",
    "update S1 Adagrad, uniform ids",
    "update S1 SGD, zipf ids",
    "update S1 Adagrad, zipf ids",
    "lookup and dot S1",
)


def run(report: Report, options: Any) -> None:
    """Updates of S1, a lookup, bags, interaction, and a whole step and inference."""
    if here().simulated:
        print("  skipped: the profiler needs a GPU", flush=True)
        return
    for kind, items in calls.KINDS.items():
        with report.attempt(kind):
            for item in items(options.tiny):
                if item.name in SPLIT:
                    split(report, item.name, item.run)
        here().release()
    for batch in (2048, 65_536):
        with report.attempt(f"model, batch {batch}"):
            model = bench_dlrm.SHAPES["mlperf"]
            model = replace(model, shape=replace(model.shape, batch=batch))
            step, infer = bench_dlrm.ours(model, bench_dlrm.make_data(model, "uniform"), 1)
            split(report, f"robe step mlperf {batch}", step.run)
            split(report, f"robe inference mlperf {batch}", infer.run)
        here().release()


def split(report: Report, name: str, run: Any) -> None:
    """The longest kernels of a call."""
    found = kernels_of(run)
    total = sum(kernel.microseconds for kernel in found)
    launches = sum(kernel.launches for kernel in found)
    report.add(name, us=total, launches=launches)
    for kernel in found[:SHOWN]:
        title = kernel.name[:100]
        print(f"    {kernel.microseconds:10.1f} us {kernel.launches:5.1f} x {title}", flush=True)
    kernels = [kernel._asdict() for kernel in found[:SHOWN]]
    report.keep(f"{name}, kernels", kernels=kernels)
