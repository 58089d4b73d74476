"""Whole steps of one id per table (forward, backward, update) and the memory they take.

python perf/bench_update.py
python perf/bench_update.py --shape S2 --peers none
"""

import threading
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numba
import numpy as np

import robe_numba as rn
from perf import peers
from perf.bench_bag import shape_for
from perf.harness import checks, command
from perf.harness.places import here
from perf.harness.race import Contender, Row, Workload, race
from perf.harness.shapes import ROWS, BenchBatch, BenchShape, make_batch

OPTIMIZERS = {"sgd": "SGD", "adagrad": "Adagrad"}


def measure(shape: BenchShape, options: Any) -> Iterator[Row]:
    """A race for each optimizer."""
    shape = here().sized(shape)
    for optimizer in OPTIMIZERS:
        batch = make_batch(shape_for(shape, optimizer), options.ids)
        yield from one_race(batch, optimizer, options)


def one_race(batch: BenchBatch, optimizer: str, options: Any) -> list[Row]:
    """All block sizes and all peers; their memory is freed at the end."""
    shape = batch.shape
    name = f"{OPTIMIZERS[optimizer]} step"
    work = Workload("update", shape.name, name, shape.num_ids, shape.output_bytes)
    contenders = [*ours(batch, optimizer), *peers.contenders(options.peers, batch, optimizer)]
    return race(work, contenders, options.repeats)


def ours(batch: BenchBatch, optimizer: str) -> Iterator[Contender]:
    """Every block size, checked."""
    shape = batch.shape
    array = rn.init_array(shape.spec(shape.block_sizes[0]))
    adagrad, head = optimizer == "adagrad", batch.head(checks.SAMPLES)
    stored = here().put(array)
    state_sum = here().put(np.zeros_like(array)) if adagrad else None
    for block_size in shape.block_sizes:
        spec = shape.spec(block_size)
        checks.check_step(step_of(head, spec), array, head, spec, adagrad)
        run = partial(step_of(batch, spec), stored, state_sum)
        peak_bytes = peak(run) if here().device == "cpu" else None
        yield Contender("robe", run, block_size=block_size, peak_bytes=peak_bytes)


def step_of(batch: BenchBatch, spec: rn.RobeSpec) -> "partial[None]":
    """A whole step as a function of array and state_sum; it reuses the output and the starts."""
    shape = batch.shape
    return partial(
        train,
        indices=here().put(batch.indices),
        grad_out=here().put(batch.grad_out),
        spec=spec,
        out=here().empty(shape.output_shape, np.float32),
        starts=here().empty((shape.batch, shape.num_tables, spec.num_blocks), np.int64),
    )


def train(
    array: Any,
    state_sum: Any,
    indices: Any,
    grad_out: Any,
    spec: rn.RobeSpec,
    out: Any,
    starts: Any,
) -> None:
    """Forward, backward and update, hashing once."""
    rn.lookup(array, indices, spec, out=out, starts=starts)
    step = {"grad_out": grad_out, "indices": indices, "spec": spec, "starts": starts}
    if state_sum is None:
        rn.sgd_update(array, **step, lr=checks.LR)
    else:
        rn.adagrad_update(array, state_sum, **step, lr=checks.LR, eps=checks.EPS)


def peak(run: Callable[[], object]) -> int:
    """Peak bytes that NumPy and Python allocate for one call, by tracemalloc.

    Kernels keep scratch memory per thread, so the call runs in a new thread that allocates it all.
    """
    run()  # compiles
    threads = numba.get_num_threads()

    def run_here() -> None:
        numba.set_num_threads(threads)
        run()

    tracemalloc.start()
    try:
        thread = threading.Thread(target=run_here)
        thread.start()
        thread.join()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


if __name__ == "__main__":
    command.main("update", __doc__, ROWS, measure)
