"""Times of single functions: ours and the peers' on the GPU, the host's, and those of kernels."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from perf import bench_interaction, peers
from perf.bench_bag import shape_for
from perf.gpu import bench_launch, calls
from perf.gpu.calls import batch_of, shape_of
from perf.gpu.checker.report import Report
from perf.gpu.device_times import device_times
from perf.gpu.profiler import kernels_of
from perf.harness.places import here
from perf.harness.race import Contender

# Shape, ids, optimizer or None for the forward pass.
RACES = (
    ("S1", "uniform", None),
    ("S3", "uniform", None),
    ("S2", "uniform", None),
    ("S1", "uniform", "sgd"),
    ("S1", "zipf", "sgd"),
    ("S1", "uniform", "adagrad"),
    ("S1", "zipf", "adagrad"),
)
TITLES = {None: "forward", "sgd": "SGD", "adagrad": "Adagrad"}
PROFILED = (  # calls whose kernels are timed one by one
    "lookup S1 Z=128 alignment 1",
    "bags S3 Z=64 alignment 1",
    "update S1 SGD, uniform ids",
    "update S1 Adagrad, uniform ids",
    "update S1 SGD, zipf ids",
    "update S1 Adagrad, zipf ids",
    "lookup and dot S1",
)
SHOWN = 12  # kernels of each call


def times(report: Report, options: Any) -> None:
    """Time every public function on the GPU: medians of 20 calls behind a delay."""
    for kind, made in calls.KINDS.items():
        with report.attempt(kind):
            for call in made(options.tiny):
                report.time(call.name, device_times(call.run), bytes=call.bytes)
        here().release()


def peer_times(report: Report, options: Any) -> None:
    """Time torch and the published formula on the same shapes.

    One table is in memory at a time, of at most 25.2 GB.
    """
    if peers.missing("torch"):
        print(f"  skipped: {peers.missing('torch')}", flush=True)
        return
    for shape, ids, optimizer in RACES:
        title = f"{shape} {TITLES[optimizer]}, {ids} ids"
        with_formula = shape == "S1" and ids == "uniform"
        for name in ("torch", "published") if with_formula else ("torch",):
            with report.attempt(f"{name} {title}"):
                batch = batch_of(shape_for(shape_of(shape, options.tiny), optimizer), ids)
                # Only `_time` refers to the peer, so its tables are freed with it.
                _time(report, f"{name} {title}", peers.contenders([name], batch, optimizer))
            here().release()
    with report.attempt("torch lookup and dot"):
        batch = batch_of(shape_for(shape_of("S1", options.tiny), None))
        size = batch.shape.batch, batch.shape.embedding_dim
        dense = np.random.default_rng(1).random(size, np.float32)
        _time(report, "torch lookup and dot S1", bench_interaction.torch(batch, dense, ["torch"]))


def _time(report: Report, work: str, contenders: Iterator[Contender]) -> None:
    """Time the first peer; of the published formula, that is the one with the largest blocks."""
    contender = next(contenders, None)
    if contender is not None:
        report.time(work, device_times(contender.call), tables=contender.note)


def host_times(report: Report, options: Any) -> None:
    """Time the host's part of every call on small batches, before any profiler has started."""
    repeats = 2 if options.tiny else bench_launch.CALLS
    for cost in bench_launch.costs(repeats, options.tiny, counted=False):
        report.time(cost.name, cost.times, unit="us")


def kernel_times(report: Report, options: Any) -> None:
    """Time the kernels of some calls, and those of a training step and of inference."""
    if here().simulated:
        print("  skipped: the profiler needs a GPU", flush=True)
        return
    for kind, made in calls.KINDS.items():
        with report.attempt(kind):
            for call in made(options.tiny):
                if call.name in PROFILED:
                    _profile(report, call.name, call.run)
        here().release()
    for batch in (2048, 65_536):
        with report.attempt(f"model, batch {batch}"):
            step, inference = calls.step_and_inference(calls.model_of(tiny=False, batch=batch))
            _profile(report, f"robe step mlperf {batch}", step.run)
            _profile(report, f"robe inference mlperf {batch}", inference.run)
        here().release()


def _profile(report: Report, name: str, run: Callable[[], object]) -> None:
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
