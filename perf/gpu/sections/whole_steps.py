"""A training step of a whole DLRM, beside torch's with sparse gradients."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from perf import bench_dlrm
from perf.bench_bag import shape_for
from perf.bench_dlrm import Data, BenchModel
from perf.gpu.checker.report import Report
from perf.gpu.device_times import device_times, wall_times
from perf.harness.places import here

Call = Callable[[], object]
BATCHES = (2048, 65_536)


def run(report: Report, options: Any) -> None:
    """Each batch size; on the GPU alone, and by the host's clock."""
    for batch in (3,) if options.tiny else BATCHES:
        model = bench_dlrm.SHAPES["tiny" if options.tiny else "mlperf"]
        shape = replace(here().sized(model.shape), batch=batch)
        model = replace(model, shape=shape_for(shape, "sgd"))
        data = bench_dlrm.make_data(model, "uniform")
        for title, make in CONTENDERS.items():
            with report.attempt(f"{title}, batch {batch}"):
                measure(report, f"{title} step mlperf {batch}", make(model, data))
            here().release()


def ours(model: BenchModel, data: Data) -> Call:
    """Over the shared array."""
    step, _ = bench_dlrm.ours(model, data, 1)
    return step.run


def products(model: BenchModel, data: Data) -> Call:
    """The matrix products of all layers, alone."""
    step, _ = next(bench_dlrm.products(model, 1))
    return step.run


def torch(model: BenchModel, data: Data, apart: bool = False) -> Call:
    """Over uncompressed tables."""
    from perf.peers.dlrm import TorchDLRM

    peer = TorchDLRM(model.config, data.batch, data.dense, data.labels, apart)
    peer.check()
    return peer.step


CONTENDERS = {
    "robe": ours,
    "matrix products": products,
    "torch": torch,
    "torch, EmbeddingBags apart,": partial(torch, apart=True),
}


def measure(report: Report, work: str, step: Call) -> None:
    """Both clocks, under one name."""
    wall = wall_times(step)
    report.time(work, device_times(step), wall_ms=wall.median)
