"""Inference of a whole DLRM by batch size: a small array against full tables, ours and torch's.

python perf/bench_inference.py --device cuda        an array of 100 MB against tables of 100 GB,
                                                    or as large as the GPU's memory allows
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from perf import bench_dlrm, peers
from perf.bench_dlrm import SHAPES, BenchModel, Data
from perf.harness import command
from perf.harness.places import here
from perf.harness.race import Contender, Row, Workload, race
from perf.harness.shapes import BenchShape
from perf.peers.indexing import random_rows
from robe_numba import TableSpec
from robe_numba.dlrm import DLRM, KINDS
from robe_numba.dlrm.embeddings.trained_array import TrainedArray

BATCHES = (512, 2048, 8192, 16_384, 32_768, 65_536)
GPU_TABLE_BYTES = 100 * 10**9  # or what fits
GPU_SPARE_BYTES = 8 * 10**9  # for the layers of the largest batch


def measure(model: BenchModel, options: Any) -> Iterator[Row]:
    """A race for each batch size against our own tables, then against torch's."""
    batches: tuple[int, ...] = (1, 4) if model.name == command.TINY else BATCHES
    batches = batches[:1] if here().simulated else batches
    small = bench_dlrm.make_dlrm(model, options.threads)
    model = replace(model, shape=largest_tables(model.shape))
    for make_peer in (full, torch, torch_apart):
        here().release()
        yield from races(model, batches, small, make_peer, options)


def largest_tables(shape: BenchShape) -> BenchShape:
    """The shape with uncompressed tables of 100 GB on a GPU, or as large as fits."""
    if here().device == "cuda" and shape.name != command.TINY:
        shape = replace(shape, table_bytes=GPU_TABLE_BYTES)
    return here().fitting(shape, spare=GPU_SPARE_BYTES)


def races(
    model: BenchModel, batches: tuple[int, ...], small: DLRM, make_peer: Any, options: Any
) -> Iterator[Row]:
    """A race for each batch size, with the tables of the largest."""
    largest = sized(model, batches[-1])
    run_on = make_peer(largest, bench_dlrm.make_data(largest, options.ids), options)
    if run_on is None:  # not asked for
        return
    for batch in batches:
        sized_model = sized(model, batch)
        data = bench_dlrm.make_data(sized_model, options.ids)
        bench_dlrm.check(small, sized_model, data)
        inputs = here().put(data.dense), here().put(data.batch.indices)
        contenders = [Contender("robe", partial(small.logits, *inputs)), run_on(data)]
        work = Workload("inference", model.name, f"inference against {contenders[1].name}", batch)
        yield from race(replace(work, x=batch), contenders, options.repeats)


def sized(model: BenchModel, batch: int) -> BenchModel:
    """The model with another batch size."""
    return replace(model, shape=replace(model.shape, batch=batch))


def full(model: BenchModel, data: Data, options: Any) -> Any:
    """The same model over our own uncompressed tables."""
    shape = model.shape
    spec = TableSpec((shape.rows,) * shape.num_tables, shape.embedding_dim)
    table = random_rows(shape.rows * shape.num_tables, shape.embedding_dim)
    part = TrainedArray(spec, table.reshape(-1), "sgd", 0.0)
    dlrm = DLRM(model.config, KINDS["full"]("full", {"array": part}, None), threads=options.threads)

    def run_on(data: Data) -> Contender:
        inputs = here().put(data.dense), here().put(data.batch.indices)
        return Contender("full tables", partial(dlrm.logits, *inputs), "peer")

    return run_on


def torch(model: BenchModel, data: Data, options: Any, apart: bool = False) -> Any:
    """The model in torch over uncompressed tables; None if it was not asked for."""
    if "torch" not in options.peers:
        return None
    if peers.missing("torch"):
        return lambda data: peers.absent("torch")
    from perf.peers.dlrm import TorchDLRM

    peer = TorchDLRM(model.config, data.batch, data.dense, data.labels, apart)
    peer.check()
    name = f"torch, {model.shape.num_tables} EmbeddingBags" if apart else "torch"

    def run_on(data: Data) -> Contender:
        return Contender(name, partial(peer.infer, peer.inputs(data.batch, data.dense)), "peer")

    return run_on


def torch_apart(model: BenchModel, data: Data, options: Any) -> Any:
    """As `torch`, with an EmbeddingBag for each table."""
    if peers.missing("torch"):  # `torch` reports it
        return None
    return torch(model, data, options, apart=True)


if __name__ == "__main__":
    command.main("inference", __doc__, {n: SHAPES[n] for n in ("mlperf", command.TINY)}, measure)
