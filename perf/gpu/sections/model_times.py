"""Times of a whole DLRM: a training step, and scoring by batch size in float32 and in TF32."""

from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from perf import bench_dlrm, bench_inference
from perf.bench_bag import shape_for
from perf.bench_dlrm import BenchModel, Data
from perf.gpu.calls import model_of
from perf.gpu.checker.report import Report
from perf.gpu.device_times import device_times, wall_times
from perf.harness.libraries import torch
from perf.harness.places import here
from perf.harness.race import Contender
from robe_numba.dlrm import capture_logits, linear

STEP_BATCHES = (2048, 65_536)
BATCHES = (1, 8, 64, 512, 2048, 8192, 32_768, 65_536)
PRECISIONS = ("float32", "TF32")
REPEATS = 15


def step(report: Report, options: Any) -> None:
    """Time a training step of each batch size, by the GPU's clock and by the host's."""
    for batch in (3,) if options.tiny else STEP_BATCHES:
        model = model_of(options.tiny, batch)
        model = replace(model, shape=shape_for(model.shape, "sgd"))
        data = bench_dlrm.make_data(model, "uniform")
        for title, make in STEPS.items():
            with report.attempt(f"{title}, batch {batch}"):
                _time(report, f"{title} step mlperf {batch}", make(model, data))
            here().release()


def our_step(model: BenchModel, data: Data) -> Callable[[], object]:
    """A step of our model."""
    return bench_dlrm.ours(model, data, 1)[0].call


def products(model: BenchModel, data: Data) -> Callable[[], object]:
    """The matrix products of all layers alone."""
    return next(bench_dlrm.products(model, 1))[0].call


def torch_step(model: BenchModel, data: Data, apart: bool = False) -> Callable[[], object]:
    """A step of torch's model over uncompressed tables."""
    from perf.peers.dlrm import TorchDLRM

    peer = TorchDLRM(model.config, data.batch, data.dense, data.labels, apart)
    peer.check()
    return peer.step


STEPS: dict[str, Callable[[BenchModel, Data], Callable[[], object]]] = {
    "robe": our_step,
    "matrix products": products,
    "torch": torch_step,
    "torch, EmbeddingBags apart,": partial(torch_step, apart=True),
}


def _time(report: Report, work: str, call: Callable[[], object], **options: Any) -> None:
    """Both clocks, under one name."""
    wall = wall_times(call, **options)
    report.time(work, device_times(call, **options), wall_ms=wall.median)


def inference(report: Report, options: Any) -> None:
    """Time scoring: ours, then one peer after the other in memory."""
    batches = (1, 3) if options.tiny else BATCHES
    common = Namespace(ids="uniform", threads=1, peers=["torch"])
    model = model_of(options.tiny)
    model = replace(model, shape=bench_inference.largest_tables(model.shape))
    report.add("tables", gb=model.shape.table_bytes / 1e9)
    data = bench_dlrm.make_data(bench_inference.sized(model, batches[-1]), common.ids)
    for title, contender in CONTENDERS.items():
        if torch is None and title.startswith("torch"):
            continue
        with report.attempt(title):
            _curve(report, title, batches, data, contender(model, data, common))
        here().release()


def robe(model: BenchModel, data: Data, options: Any, graph: bool = False) -> Any:
    """Our model, checked, in the form of the peers of `bench_inference`."""
    small = bench_dlrm.make_dlrm(model, options.threads)
    bench_dlrm.check(small, model, data)

    def run_on(data: Data) -> Contender:
        inputs = here().put(data.dense), here().put(data.batch.indices)
        logits = capture_logits(small, len(data.dense)) if graph else small.logits
        return Contender("robe", partial(logits, *inputs))

    return run_on


CONTENDERS: dict[str, Callable[[BenchModel, Data, Any], Any]] = {
    "robe": robe,
    "robe, CUDA graph": partial(robe, graph=True),
    "full": bench_inference.full,
    "torch": bench_inference.torch,
    "torch, EmbeddingBags apart": bench_inference.torch_apart,
}


def _curve(report: Report, title: str, batches: tuple[int, ...], data: Data, run_on: Any) -> None:
    for precision in PRECISIONS:
        if precision == "TF32" and here().simulated:
            print("  skipped: TF32 needs a GPU", flush=True)
            continue
        with products_in(precision):
            for batch in batches:
                call = run_on(head(data, batch)).run
                _time(report, f"{title} inference {precision} {batch}", call, repeats=REPEATS)


def head(data: Data, samples: int) -> Data:
    """The first samples."""
    return Data(data.batch.head(samples), data.dense[:samples], data.labels[:samples])


@contextmanager
def products_in(precision: str) -> Iterator[None]:
    """Compute matrix products, ours and torch's, in full float32 or in TF32, and check it."""
    if here().simulated:
        yield
        return
    from robe_numba.ops.gpu import products

    before, tf32 = products.tf32, precision == "TF32"
    products.tf32 = tf32
    if torch is not None:
        torch.backends.cuda.matmul.allow_tf32 = tf32
    rounding = _rounding()
    print(f"  {precision}: a product of ours is off by {rounding:.1e}", flush=True)
    try:
        if (rounding > 1e-5) != tf32:
            raise RuntimeError(f"our products are not in {precision}")
        yield
    finally:
        products.tf32 = before
        if torch is not None:
            torch.backends.cuda.matmul.allow_tf32 = False


def _rounding() -> float:
    """The relative error of a product, about 1e-7 in float32 and 3e-4 in TF32."""
    x = np.random.default_rng(0).random((256, 256), np.float32) - np.float32(0.5)
    zeros = np.zeros(256, np.float32)
    y, _ = linear(here().put(x), here().put(np.ascontiguousarray(x.T)), here().put(zeros))
    found = here().fetch(y)
    exact = x.astype(float) @ x
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))
