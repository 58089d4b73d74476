"""The calls that are timed on a GPU: our public functions at the shapes of the benchmarks.

Their names are those that the summary looks for.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import numpy as np

import robe_numba as rn
from perf import bench_bag, bench_dlrm, bench_interaction, bench_lookup, bench_update
from perf.harness.checks import EPS, LR
from perf.harness.places import here
from perf.harness.shapes import BAGS, ROWS, TINY, BenchBatch, BenchShape, make_batch

# Z and alignment of lookups.
PAIRS = {
    "S1": ((128, 128), (128, 32), (128, 1), (32, 32), (32, 1), (8, 8), (8, 1)),
    "S2": ((16, 16), (16, 1), (8, 1), (1, 1)),
}


@dataclass(frozen=True)
class Call:
    """One call of a function."""

    name: str
    run: Callable[[], object]
    bytes: int | None = None  # read and written, at least


def shape_of(name: str, tiny: bool) -> BenchShape:
    """S1, S2 or S3 as a GPU measures it, or the tiny shape of the same kind."""
    shapes = BAGS if name == "S3" else ROWS
    return here().sized(shapes[TINY.name if tiny else name])


def model_of(tiny: bool, batch: int | None = None) -> bench_dlrm.BenchModel:
    """The preset mlperf, or the tiny model, as a GPU measures it, with at most `batch` samples."""
    model = bench_dlrm.SHAPES["tiny" if tiny else "mlperf"]
    shape = here().sized(model.shape)
    return replace(model, shape=replace(shape, batch=min(batch or shape.batch, shape.batch)))


def step_and_inference(model: bench_dlrm.BenchModel) -> tuple[Call, Call]:
    """A training step and scoring of a model."""
    step, inference = bench_dlrm.ours(model, bench_dlrm.make_data(model, "uniform"), 1)
    return Call("DLRM step", step.call), Call("DLRM inference", inference.call)


@lru_cache(maxsize=6)
def batch_of(shape: BenchShape, ids: str = "uniform") -> BenchBatch:
    """A batch, made once for all calls that use it."""
    return make_batch(shape, ids)


def lookups(tiny: bool, name: str = "S1") -> Iterator[Call]:
    """One id per table, for each Z and alignment of S1 or S2."""
    shape = shape_of(name, tiny)
    batch = batch_of(shape)
    array = here().put(rn.init_array(shape.spec(shape.block_sizes[0])))
    for block_size, alignment in PAIRS[name]:
        size = min(block_size, shape.embedding_dim)
        spec = shape.spec(size, alignment=min(alignment, size))
        run = bench_lookup.contender("robe", array, batch, spec).call
        title = f"lookup {name} Z={block_size} alignment {alignment}"
        yield Call(title, run, 2 * shape.output_bytes)


def halves(tiny: bool) -> Iterator[Call]:
    """A lookup from a float16 array."""
    shape = shape_of("S1", tiny)
    size = shape.block_sizes[0]
    array = here().put(rn.init_array(shape.spec(size)).astype(np.float16))
    spec = shape.spec(size, alignment=min(32, size))
    run = bench_lookup.contender("robe", array, batch_of(shape), spec).call
    yield Call("lookup S1 Z=128 alignment 32, float16", run, shape.output_bytes * 3 // 2)


def bags(tiny: bool) -> Iterator[Call]:
    """Bags of 20 ids, summed."""
    shape = shape_of("S3", tiny)
    batch = batch_of(shape)
    size = shape.block_sizes[0]
    array = here().put(rn.init_array(shape.spec(size)))
    out = here().empty(shape.output_shape, np.float32)
    moved = (shape.bag + 1) * shape.output_bytes
    for alignment in (32, 1):
        spec = shape.spec(size, alignment=min(alignment, size))
        arguments = bench_bag.bags_of(batch, spec, weighted=False)
        run = partial(rn.embedding_bag, array, **arguments, out=out)
        yield Call(f"bags S3 Z=64 alignment {alignment}", run, moved)


def steps(tiny: bool, ids: str, optimizers: tuple[str, ...] = ("sgd", "adagrad")) -> Iterator[Call]:
    """The update alone, with the starts of the forward pass, and the whole step of S1."""
    shape = shape_of("S1", tiny)
    batch = batch_of(shape, ids)
    spec = shape.spec(shape.block_sizes[0])
    array = here().put(rn.init_array(spec))
    state_sum = here().put(np.zeros(spec.array_size, np.float32))
    step = bench_update.step_of(batch, spec)
    given: dict[str, Any] = step.keywords
    rn.lookup(array, given["indices"], spec, out=given["out"], starts=given["starts"])
    update = {name: given[name] for name in ("grad_out", "indices", "spec", "starts")} | {"lr": LR}
    for optimizer in optimizers:
        adagrad = optimizer == "adagrad"
        alone: Callable[[], object] = partial(rn.sgd_update, array, **update)
        if adagrad:
            alone = partial(rn.adagrad_update, array, state_sum, **update, eps=EPS)
        title = f"S1 {'Adagrad' if adagrad else 'SGD'}, {ids} ids"
        # Gradients are read once; the array (and its sums) are read and written.
        moved = shape.output_bytes + 8 * spec.array_size * (2 if adagrad else 1)
        yield Call(f"update {title}", alone, moved)
        yield Call(f"step {title}", partial(step, array, state_sum if adagrad else None))


def interactions(tiny: bool) -> Iterator[Call]:
    """Lookup and dot interaction in one pass and in two."""
    shape = shape_of("S1", tiny)
    batch = batch_of(shape)
    dense = np.random.default_rng(1).random((shape.batch, shape.embedding_dim), np.float32)
    for contender in bench_interaction.ours(batch, dense):
        one = contender.name == "robe, fused"
        yield Call(f"lookup and dot S1{'' if one else ', two passes'}", contender.call)


def starts(tiny: bool) -> Iterator[Call]:
    """Hashing alone."""
    shape = shape_of("S1", tiny)
    indices = here().put(batch_of(shape).indices)
    for block_size in (128, 8):
        spec = shape.spec(min(block_size, shape.embedding_dim))
        moved = 8 * shape.num_ids * (1 + spec.num_blocks)
        yield Call(f"starts S1 Z={block_size}", partial(rn.block_starts, indices, spec), moved)


# Kinds of calls by name: what each yields.
KINDS: dict[str, Callable[[bool], Iterator[Call]]] = {
    "lookups of S1": lookups,
    "lookups of S2": partial(lookups, name="S2"),
    "lookups of halves": halves,
    "bags": bags,
    "steps, uniform ids": partial(steps, ids="uniform"),
    "steps, zipf ids": partial(steps, ids="zipf"),
    "interaction": interactions,
    "starts": starts,
}
