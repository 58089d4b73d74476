"""Bags of ids, summed with and without weights: forward pass and whole steps.

python perf/bench_bag.py
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import checks
import command
import copies
import numpy as np
import peers
from shapes import BAGS, Batch, Shape, make_batch
from timing import Contender, Row, Work, race

import robe_numba as rn
from robe_numba.memory import aligned_empty

OPTIMIZERS = {None: ", sum", "sgd": ", SGD step", "adagrad": ", Adagrad step"}


def measure(shape: Shape, options: Any) -> Iterator[Row]:
    """A race for each optimizer and none, with and without weights."""
    batch = make_batch(shape, options.ids)
    for optimizer in OPTIMIZERS:
        for weighted in (False, True):
            yield from one_race(batch, optimizer, weighted, options)


def one_race(batch: Batch, optimizer: str | None, weighted: bool, options: Any) -> list[Row]:
    """Ours and the peers; what they hold is freed at the end."""
    shape, forward = batch.shape, optimizer is None
    work = Work(
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


def ours(batch: Batch, optimizer: str | None, weighted: bool) -> Iterator[Contender]:
    """Every block size, checked."""
    shape = batch.shape
    array = rn.init_array(shape.spec(shape.block_sizes[0]))
    for block_size in shape.block_sizes:
        spec = shape.spec(block_size)
        weights = {"per_sample_weights": batch.weights} if weighted else {}
        bags = {"indices": batch.flat, "offsets": batch.offsets, "spec": spec, **weights}
        out = aligned_empty(shape.output_shape, np.float32)
        if optimizer is None:
            run = partial(rn.embedding_bag, array, **bags, out=out)
            run()
            checks.check_forward(out, array, batch, spec, weighted)
        else:
            step = partial(train, bags=bags, grad_out=batch.grad_out, out=out)
            adagrad = optimizer == "adagrad"
            checks.check_step(step, array, batch, spec, adagrad, weighted)
            run = partial(step, array, np.zeros_like(array) if adagrad else None)
        yield Contender("robe", run, block_size=block_size)


def train(
    array: np.ndarray,
    state_sum: np.ndarray | None,
    bags: dict[str, Any],
    grad_out: np.ndarray,
    out: np.ndarray,
) -> None:
    """Forward, backward and update, hashing once."""
    starts = np.empty((bags["indices"].size, bags["spec"].num_blocks), np.int64)
    rn.embedding_bag(array, **bags, out=out, starts=starts)
    step = {"grad_out": grad_out, **bags, "lr": checks.LR, "starts": starts}
    if state_sum is None:
        rn.embedding_bag_sgd_update(array, **step)
    else:
        rn.embedding_bag_adagrad_update(array, state_sum, **step, eps=checks.EPS)


if __name__ == "__main__":
    command.main("bag", __doc__, BAGS, measure)
