"""A whole DLRM, training step and inference, against torch and its matrix products alone.

python perf/bench_dlrm.py
python perf/bench_dlrm.py --shape kaggle
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from perf import peers
from perf.harness import checks, command
from perf.harness.places import here
from perf.harness.race import Contender, Row, Workload, race
from perf.harness.shapes import S1, S2, TINY, BenchBatch, BenchShape, make_batch
from robe_numba.dlrm import DLRM, PRESETS, DLRMConfig, make_embedding
from robe_numba.dlrm.thread_pool import ThreadPool, micro_batches

try:
    from threadpoolctl import threadpool_limits
except ImportError:
    threadpool_limits = None

LR = 1e-3  # so small that a thousand steps on one batch do not change the speed


@dataclass(frozen=True)
class BenchModel:
    """The layers of a preset with the embeddings of a shape."""

    name: str
    config: DLRMConfig
    shape: BenchShape


SHAPES = {
    "mlperf": BenchModel("mlperf", PRESETS["mlperf"].config, S1),
    "kaggle": BenchModel("kaggle", PRESETS["kaggle"].config, S2),
    "tiny": BenchModel("tiny", DLRMConfig(4, TINY.num_tables, 16, (8,), (8,)), TINY),
}


@dataclass(frozen=True)
class Data:
    """One batch of a model."""

    batch: BenchBatch
    dense: np.ndarray  # float32 (batch, num_dense)
    labels: np.ndarray  # float32 (batch,)


def measure(model: BenchModel, options: Any) -> Iterator[Row]:
    """A race for the training step and one for inference."""
    model = replace(model, shape=here().sized(model.shape))
    data, size = make_data(model, options.ids), model.shape.batch
    contenders = [
        ours(model, data, options.threads),
        *torch(model, data, options.peers),
        *products(model, options.threads),
    ]
    for position, name in enumerate(("training step", "inference")):
        work = Workload("dlrm", model.name, name, size)
        yield from race(work, [pair[position] for pair in contenders], options.repeats)


def make_data(model: BenchModel, ids: str) -> Data:
    """Random ids, features and labels."""
    generator, size = np.random.default_rng(0), model.shape.batch
    return Data(
        make_batch(model.shape, ids),
        generator.random((size, model.config.num_dense), np.float32),
        generator.integers(0, 2, size).astype(np.float32),
    )


def ours(model: BenchModel, data: Data, threads: int) -> tuple[Contender, Contender]:
    """Training step and inference, checked against NumPy."""
    dlrm = make_dlrm(model, threads)
    check(dlrm, model, data)
    put = here().put
    inputs = put(data.dense), put(data.batch.indices)
    return (
        Contender("robe", partial(dlrm.train_step, *inputs, put(data.labels), LR)),
        Contender("robe", partial(dlrm.logits, *inputs)),
    )


def make_dlrm(model: BenchModel, threads: int) -> DLRM:
    """The model over a shared array."""
    shape = model.shape
    embedding = make_embedding(
        "robe",
        embedding_dim=shape.embedding_dim,
        num_tables=shape.num_tables,
        num_parameters=shape.array_size,
        block_size=shape.block_sizes[0],
    )
    return DLRM(model.config, embedding.to(here().device), threads=threads)


def check(dlrm: DLRM, model: BenchModel, data: Data) -> None:
    """Compare the logits of the first samples with NumPy."""
    head, spec = data.batch.head(checks.SAMPLES), model.shape.spec(model.shape.block_sizes[0])
    parameters = {name: here().fetch(array) for name, array in dlrm.parameters().items()}
    rows = parameters["embedding.array"][checks.positions(head.indices, spec)]
    dense = data.dense[: head.shape.batch]
    logits = here().fetch(dlrm.logits(here().put(dense), here().put(head.indices)))
    expected = checks.dlrm_logits(parameters, dense, rows)
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4)


def torch(model: BenchModel, data: Data, names: list[str]) -> Iterator[tuple[Contender, Contender]]:
    """The same model in torch over uncompressed tables, all in one sparse EmbeddingBag."""
    if "torch" not in names:
        return
    if peers.missing("torch"):
        yield peers.absent("torch"), peers.absent("torch")
        return
    from perf.peers.dlrm import TorchDLRM

    here().release()
    peer = TorchDLRM(model.config, data.batch, data.dense, data.labels)
    peer.check()
    yield Contender("torch", peer.step, "peer"), Contender("torch", peer.infer, "peer")


def products(model: BenchModel, threads: int) -> Iterator[tuple[Contender, Contender]]:
    """The matrix products alone.

    On the host by BLAS's own threads, and in parts as the model runs them; on a GPU by CuPy.
    """
    rows = model.shape.batch
    whole = layer_products(model.config, [slice(0, rows)])
    if here().device == "cuda":
        yield _pair("matrix products", whole[0])
        return
    parts = layer_products(model.config, micro_batches(rows))
    workers = ThreadPool(threads)

    def on_blas_threads(train: bool) -> None:
        limit = threadpool_limits(threads, "blas") if threadpool_limits else nullcontext()
        with limit:
            whole[0](train)

    def in_parts(train: bool) -> None:
        workers.run(lambda part: parts[part](train), len(parts))

    for name, run in (("BLAS threads", on_blas_threads), ("in parts", in_parts)):
        yield _pair(f"matrix products, {name}", run)


def _pair(name: str, run: Callable[[bool], None]) -> tuple[Contender, Contender]:
    """The products of a training step and those of inference."""
    return Contender(name, partial(run, True), "floor"), Contender(
        name, partial(run, False), "floor"
    )


def layer_products(config: DLRMConfig, parts: list[slice]) -> list[Callable[[bool], None]]:
    """For each part a function that multiplies the matrices of all layers into fixed outputs."""
    matmul = here().xp.matmul
    fans = [*pairwise(config.bottom_widths), *pairwise(config.top_widths)]
    generator = np.random.default_rng(0)

    def random(*shape: int) -> Any:
        return here().put(generator.random(shape, np.float32))

    weights = [random(fan_out, fan_in) for fan_in, fan_out in fans]

    def for_part(rows: int) -> Callable[[bool], None]:
        layers = [
            (
                random(rows, w.shape[1]),
                w,
                random(rows, w.shape[0]),
                np.empty_like(w),
                random(rows, w.shape[1]),
            )
            for w in weights
        ]

        def multiply(train: bool) -> None:
            for x, weight, y, _, _ in layers:
                matmul(x, weight.T, out=y)
            if train:
                for x, weight, grad_y, grad_weight, grad_x in reversed(layers):
                    matmul(grad_y.T, x, out=grad_weight)
                    matmul(grad_y, weight, out=grad_x)

        return multiply

    return [for_part(part.stop - part.start) for part in parts]


if __name__ == "__main__":
    command.main("dlrm", __doc__, SHAPES, measure)
