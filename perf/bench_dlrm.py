"""A whole DLRM, training step and inference, against torch and its matrix products alone.

python perf/bench_dlrm.py
python perf/bench_dlrm.py --shape kaggle
python perf/bench_dlrm.py --shape mlperf-dcnv2
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
from robe_numba.dlrm.bags import bags_of
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
    sizes: tuple[int, ...] = ()  # ids of each multi-hot feature in a row
    optimizer: str = "sgd"


# The lists of MLPerf's benchmark; its other eleven features have single ids.
SIZES = (3, 2, 2, 6, 7, 3, 8, 6, 9, 5, 12, 100, 27, 10, 3)
_DCN = replace(PRESETS["mlperf-dcnv2"].config, pooling=("sum",) * len(SIZES))
_TINY_DCN = DLRMConfig(4, 3, 16, (8,), (8,), "dcn", 2, 8, ("sum", "sum"))
SHAPES = {
    "mlperf": BenchModel("mlperf", PRESETS["mlperf"].config, S1),
    "kaggle": BenchModel("kaggle", PRESETS["kaggle"].config, S2),
    "tiny": BenchModel("tiny", DLRMConfig(4, TINY.num_tables, 16, (8,), (8,)), TINY),
    "mlperf-dcnv2": BenchModel("mlperf-dcnv2", _DCN, S1, SIZES, "adagrad"),
    "tiny-dcnv2": BenchModel("tiny-dcnv2", _TINY_DCN, TINY, (4, 2), "adagrad"),
}


@dataclass(frozen=True)
class Data:
    """One batch of a model."""

    batch: BenchBatch
    dense: np.ndarray  # float32 (batch, num_dense)
    labels: np.ndarray  # float32 (batch,)
    lists: tuple[np.ndarray, ...] = ()  # int64 (batch, ids in a row) of each multi-hot feature

    @property
    def ids(self) -> list[np.ndarray]:
        """Of every table, int64 (batch, ids in a row)."""
        single = self.batch.shape.num_tables - len(self.lists)
        return [*np.split(self.batch.indices[:, :single], single, axis=1), *self.lists]

    @property
    def inputs(self) -> tuple[Any, Any, Any]:
        """Dense features, single ids and lists as `DLRM` takes them."""
        put, single = here().put, self.batch.shape.num_tables - len(self.lists)
        indices = put(np.ascontiguousarray(self.batch.indices[:, :single]))
        if not self.lists:
            return put(self.dense), indices, None
        lengths = np.repeat([ids.shape[1] for ids in self.lists], len(self.dense))
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        values = np.concatenate([ids.ravel() for ids in self.lists])
        return put(self.dense), indices, (put(values), put(offsets), None)


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
    for name, run in embedding_work(model, data, options.threads):
        work = Workload("dlrm", model.name, name, size)
        yield from race(work, [Contender("robe", run)], options.repeats)


def make_data(model: BenchModel, ids: str) -> Data:
    """Random ids, features and labels."""
    generator, size = np.random.default_rng(0), model.shape.batch
    lists = []
    for number, length in enumerate(model.sizes, start=1):
        shape = replace(model.shape, num_tables=1, bag=length)
        drawn = make_batch(replace(shape, table_bytes=shape.table_bytes // 26), ids, number)
        lists.append(drawn.ids.reshape(size, length))
    return Data(
        make_batch(model.shape, ids),
        generator.random((size, model.config.num_dense), np.float32),
        generator.integers(0, 2, size).astype(np.float32),
        tuple(lists),
    )


def ours(model: BenchModel, data: Data, threads: int) -> tuple[Contender, Contender]:
    """Training step and inference, checked against NumPy."""
    dlrm = make_dlrm(model, threads)
    check(dlrm, model, data)
    dense, indices, multi_hot = data.inputs
    labels = here().put(data.labels)
    return (
        Contender(
            "robe", partial(dlrm.train_step, dense, indices, labels, LR, multi_hot=multi_hot)
        ),
        Contender("robe", partial(dlrm.logits, dense, indices, multi_hot)),
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
        pooling=model.config.pooling,
        optimizer=model.optimizer,
    )
    moved = embedding.to(here().device)
    return DLRM(model.config, moved, threads=threads, optimizer=model.optimizer)


def check(dlrm: DLRM, model: BenchModel, data: Data) -> None:
    """Compare the logits of the first samples with NumPy."""
    count = min(checks.SAMPLES if not data.lists else 32, len(data.dense))
    head = Data(
        data.batch.head(count), data.dense[:count], data.labels[:count],
        tuple(ids[:count] for ids in data.lists),
    )  # fmt: skip
    spec = model.shape.spec(model.shape.block_sizes[0])
    parameters = {name: here().fetch(array) for name, array in dlrm.parameters().items()}
    rows = checks.pooled_lists(parameters["embedding.array"], head.ids, spec)
    dense, indices, multi_hot = head.inputs
    logits = here().fetch(dlrm.logits(dense, indices, multi_hot))
    expected = checks.dlrm_logits(parameters, head.dense, rows, model.config.interaction)
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4)


def torch(model: BenchModel, data: Data, names: list[str]) -> Iterator[tuple[Contender, Contender]]:
    """The same model in torch over uncompressed tables, all in one sparse EmbeddingBag."""
    if "torch" not in names:
        return
    if peers.missing("torch"):
        yield peers.absent("torch"), peers.absent("torch")
        return
    from perf.peers.dcn import TorchDCN
    from perf.peers.dlrm import TorchDLRM

    here().release()
    peer: Any
    if model.config.interaction == "dcn":
        arguments = (data.ids, data.dense, data.labels, model.optimizer)
        peer = TorchDCN(model.config, model.shape, *arguments)
    else:
        peer = TorchDLRM(model.config, data.batch, data.dense, data.labels)
    peer.check()
    yield Contender("torch", peer.step, "peer"), Contender("torch", peer.infer, "peer")


def embedding_work(
    model: BenchModel, data: Data, threads: int
) -> Iterator[tuple[str, Callable[[], object]]]:
    """What a model with lists does for its embeddings alone."""
    if not data.lists:
        return
    embedding = make_dlrm(model, threads).embedding
    _, indices, multi_hot = data.inputs
    bags = bags_of(here().xp, indices, multi_hot, model.config.pooling)
    out = here().empty(model.shape.output_shape, np.float32)
    grad_out = here().put(data.batch.grad_out)

    def learn() -> None:
        _, context = embedding.lookup(bags, True, out)
        embedding.update(grad_out, context, LR)

    yield "training step, embeddings alone", learn
    yield "inference, embeddings alone", partial(embedding.lookup, bags, False, out)


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
    width = config.interaction_width
    fans += [fan for rank in config.cross_ranks for fan in ((width, rank), (rank, width))]
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
