"""What is timed: our public functions at the shapes of the benchmarks, under the names by which
the summary knows them.
"""

from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np

import robe_numba as rn
from perf import bench_bag, bench_interaction, bench_lookup, bench_update
from perf.harness.checks import EPS, LR
from perf.harness.places import here
from perf.harness.shapes import BAGS, ROWS, TINY, BenchBatch, BenchShape, make_batch

# Z and alignment of lookups.
PAIRS = {
    "S1": ((128, 128), (128, 32), (128, 1), (32, 32), (32, 1), (8, 8), (8, 1)),
    "S2": ((16, 16), (16, 1), (8, 1), (1, 1)),
}


@dataclass(frozen=True)
class Item:
    """One call of something."""

    name: str
    run: Callable[[], object]
    bytes: int | None = None  # read and written, at the least


def shape_of(name: str, tiny: bool) -> BenchShape:
    """S1, S2 or S3 as a GPU measures it, or the tiny shape of the same kind."""
    shapes = BAGS if name == "S3" else ROWS
    return here().sized(shapes[TINY.name if tiny else name])


@lru_cache(maxsize=6)
def batch_of(shape: BenchShape, ids: str = "uniform") -> BenchBatch:
    """A batch, made once for all who want the same."""
    return make_batch(shape, ids)


def lookups(tiny: bool, name: str = "S1") -> Iterator[Item]:
    """One id per table: Z and alignment of S1 or S2."""
    shape = shape_of(name, tiny)
    batch = batch_of(shape)
    array = here().put(rn.init_array(shape.spec(shape.block_sizes[0])))
    for block_size, alignment in PAIRS[name]:
        size = min(block_size, shape.embedding_dim)
        spec = shape.spec(size, alignment=min(alignment, size))
        run = bench_lookup.contender("robe", array, batch, spec).run
        title = f"lookup {name} Z={block_size} alignment {alignment}"
        yield Item(title, run, 2 * shape.output_bytes)


def halves(tiny: bool) -> Iterator[Item]:
    """As `lookups`, from an array of float16."""
    shape = shape_of("S1", tiny)
    array = rn.init_array(shape.spec(shape.block_sizes[0])).astype(np.float16)
    size = shape.block_sizes[0]
    spec = shape.spec(size, alignment=min(32, size))
    run = bench_lookup.contender("robe", here().put(array), batch_of(shape), spec).run
    yield Item("lookup S1 Z=128 alignment 32, float16", run, shape.output_bytes * 3 // 2)


def bags(tiny: bool) -> Iterator[Item]:
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
        yield Item(f"bags S3 Z=64 alignment {alignment}", run, moved)


def steps(tiny: bool, ids: str, optimizers: tuple[str, ...] = ("sgd", "adagrad")) -> Iterator[Item]:
    """The update alone, with the starts that the forward pass left, and the whole step of S1."""
    shape = shape_of("S1", tiny)
    batch = batch_of(shape, ids)
    spec = shape.spec(shape.block_sizes[0])
    array = here().put(rn.init_array(spec))
    state_sum = here().put(np.zeros(spec.array_size, np.float32))
    step = bench_update.step_of(batch, spec)
    given = dict(step.keywords)
    rn.lookup(array, given["indices"], spec, out=given["out"], starts=given["starts"])
    update = {name: given[name] for name in ("grad_out", "indices", "spec", "starts")} | {"lr": LR}
    for optimizer in optimizers:
        adagrad = optimizer == "adagrad"
        if adagrad:
            alone = partial(rn.adagrad_update, array, state_sum, **update, eps=EPS)
        else:
            alone = partial(rn.sgd_update, array, **update)
        title = f"S1 {'Adagrad' if adagrad else 'SGD'}, {ids} ids"
        # gradients once, the array (and its sums) to and fro
        moved = shape.output_bytes + 8 * spec.array_size * (2 if adagrad else 1)
        yield Item(f"update {title}", alone, moved)
        yield Item(f"step {title}", partial(step, array, state_sum if adagrad else None))


def interactions(tiny: bool) -> Iterator[Item]:
    """Lookup and dot interaction in one pass and in two."""
    shape = shape_of("S1", tiny)
    batch = batch_of(shape)
    dense = np.random.default_rng(1).random((shape.batch, shape.embedding_dim), np.float32)
    for contender in bench_interaction.ours(batch, dense):
        one = contender.name == "robe, fused"
        yield Item(f"lookup and dot S1{'' if one else ', two passes'}", contender.run)


def starts(tiny: bool) -> Iterator[Item]:
    """Hashing alone."""
    shape = shape_of("S1", tiny)
    indices = here().put(batch_of(shape).indices)
    for block_size in (128, 8):
        spec = shape.spec(min(block_size, shape.embedding_dim))
        moved = 8 * shape.num_ids * (1 + spec.num_blocks)
        yield Item(f"starts S1 Z={block_size}", partial(rn.block_starts, indices, spec), moved)


# Kinds of work by name: what each yields.
KINDS: dict[str, Callable[[bool], Iterator[Item]]] = {
    "lookups of S1": lookups,
    "lookups of S2": partial(lookups, name="S2"),
    "lookups of halves": halves,
    "bags": bags,
    "steps, uniform ids": partial(steps, ids="uniform"),
    "steps, zipf ids": partial(steps, ids="zipf"),
    "interaction": interactions,
    "starts": starts,
}


def options(tiny: bool) -> Any:
    """What the benchmarks' own functions take."""
    return Namespace(ids="uniform", threads=1, peers=["torch"], repeats=1, tiny=tiny)
