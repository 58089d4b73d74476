"""Times of torch and of the published formula on the same shapes."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from perf import bench_interaction, peers
from perf.bench_bag import shape_for
from perf.gpu.calls import batch_of, shape_of
from perf.gpu.checker.report import Report
from perf.gpu.device_times import device_times
from perf.harness.places import here

# BenchShape, ids, optimizer or None for the forward pass.
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


def run(report: Report, options: Any) -> None:
    """One table at a time in memory, as large as fits up to 25.2 GB."""
    if peers.missing("torch"):
        print(f"  skipped: {peers.missing('torch')}", flush=True)
        return
    for shape, ids, optimizer in RACES:
        title = f"{shape} {TITLES[optimizer]}, {ids} ids"
        with_formula = shape == "S1" and ids == "uniform"
        for name in ("torch", "published") if with_formula else ("torch",):
            with report.attempt(f"{name} {title}"):
                batch = batch_of(shape_for(shape_of(shape, options.tiny), optimizer), ids)
                # Nobody but `_time` holds the peers, which hold their tables.
                _time(report, f"{name} {title}", peers.contenders([name], batch, optimizer))
            here().release()
    with report.attempt("torch lookup and dot"):
        batch = batch_of(shape_for(shape_of("S1", options.tiny), None))
        size = batch.shape.batch, batch.shape.embedding_dim
        dense = np.random.default_rng(1).random(size, np.float32)
        _time(report, "torch lookup and dot S1", bench_interaction.torch(batch, dense, ["torch"]))


def _time(report: Report, work: str, contenders: Iterator[Any]) -> None:
    """The first of some peers: of the formula, the one with the largest blocks."""
    contender = next(contenders, None)
    if contender is not None:
        report.time(work, device_times(contender.run), tables=contender.note)
