"""Bags of ids, summed with and without weights: forward pass and whole steps.

python perf/bench_bag.py
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

import robe_numba as rn
from perf import peers
from perf.harness import checks, command, copies
from perf.harness.places import here
from perf.harness.race import Contender, Row, Workload, race
from perf.harness.shapes import BAGS, BenchBatch, BenchShape, make_batch

OPTIMIZERS = {None: ", sum", "sgd": ", SGD step", "adagrad": ", Adagrad step"}


def measure(shape: BenchShape, options: Any) -> Iterator[Row]:
    """A race for the forward pass and one for each optimizer, with and without weights."""
    shape = here().sized(shape)
    for optimizer in OPTIMIZERS:
        batch = make_batch(shape_for(shape, optimizer), options.ids)
        for weighted in (False, True):
            yield from one_race(batch, optimizer, weighted, options)


def shape_for(shape: BenchShape, optimizer: str | None) -> BenchShape:
    """The shape with tables that leave room for torch's row gradients, copied and sorted."""
    if optimizer is None:
        return here().fitting(shape, spare=4 * shape.output_bytes)
    rows = 4 * shape.num_ids * shape.embedding_dim
    return here().fitting(shape, 2 if optimizer == "adagrad" else 1, 6 * rows)


def one_race(batch: BenchBatch, optimizer: str | None, weighted: bool, options: Any) -> list[Row]:
    """Our contenders and the peers; their memory is freed at the end."""
    shape, forward = batch.shape, optimizer is None
    work = Workload(
        "bag",
        shape.name,
        ("weighted bags" if weighted else "bags") + OPTIMIZERS[optimizer],
        shape.num_ids,
        shape.output_bytes,
        (shape.bag + 1) * shape.output_bytes if forward else None,
    )
    contenders = [
        *ours(batch, optimizer, weighted),
        *peers.contenders(options.peers, batch, optimizer, weighted),
        *(copies.contenders(shape.output_bytes // 4) if forward else ()),
    ]
    return race(work, contenders, options.repeats)


def ours(batch: BenchBatch, optimizer: str | None, weighted: bool) -> Iterator[Contender]:
    """Every block size, checked."""
    shape = batch.shape
    array = rn.init_array(shape.spec(shape.block_sizes[0]))
    stored = here().put(array)
    for block_size in shape.block_sizes:
        spec = shape.spec(block_size)
        if optimizer is None:
            out = here().empty(shape.output_shape, np.float32)
            run: Callable[[], object] = partial(
                rn.embedding_bag, stored, **bags_of(batch, spec, weighted), out=out
            )
            run()
            checks.check_forward(out, array, batch, spec, weighted)
        else:
            adagrad, head = optimizer == "adagrad", batch.head(checks.SAMPLES)
            step = step_of(head, spec, weighted)
            checks.check_step(step, array, head, spec, adagrad, weighted)
            state_sum = here().put(np.zeros_like(array)) if adagrad else None
            run = partial(step_of(batch, spec, weighted), stored, state_sum)
        yield Contender("robe", run, block_size=block_size)


def bags_of(batch: BenchBatch, spec: rn.RobeSpec, weighted: bool) -> dict[str, Any]:
    """Arguments of every bag function."""
    put = here().put
    weights = {"per_sample_weights": put(batch.weights)} if weighted else {}
    return {"indices": put(batch.flat), "offsets": put(batch.offsets), "spec": spec, **weights}


def step_of(batch: BenchBatch, spec: rn.RobeSpec, weighted: bool) -> "partial[None]":
    """A whole step as a function of array and state_sum."""
    return partial(
        train,
        bags=bags_of(batch, spec, weighted),
        grad_out=here().put(batch.grad_out),
        out=here().empty(batch.shape.output_shape, np.float32),
    )


def train(array: Any, state_sum: Any, bags: dict[str, Any], grad_out: Any, out: Any) -> None:
    """Forward, backward and update, hashing once."""
    starts = here().empty((bags["indices"].size, bags["spec"].num_blocks), np.int64)
    rn.embedding_bag(array, **bags, out=out, starts=starts)
    step = {"grad_out": grad_out, **bags, "lr": checks.LR, "starts": starts}
    if state_sum is None:
        rn.embedding_bag_sgd_update(array, **step)
    else:
        rn.embedding_bag_adagrad_update(array, state_sum, **step, eps=checks.EPS)


if __name__ == "__main__":
    command.main("bag", __doc__, BAGS, measure)
