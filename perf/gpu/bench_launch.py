"""The host's cost of a call on a GPU: microseconds in Python until everything is launched.

python -m perf.gpu.bench_launch                 needs a GPU, and half a minute
python -m perf.gpu.bench_launch --json launch.json

Batches are small, so the GPU is never the bottleneck. Calls follow each other without waiting; now
and then its queue is emptied, untimed.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import robe_numba as rn
from perf.gpu import calls
from perf.gpu.calls import Call
from perf.gpu.device_times import Times, quartiles, wait
from perf.gpu.profiler import kernels_of
from perf.harness import checks, places
from perf.harness.libraries import torch
from perf.harness.places import here
from perf.harness.race import no_garbage_collection
from perf.harness.shapes import BenchShape, make_batch
from robe_numba.formatting import markdown_table

CALLS = 300
AT_ONCE = 20  # calls, then the queue is emptied
BATCH = 64
DLRM_BATCHES = (1, 64)


@dataclass(frozen=True)
class Cost:
    """Microseconds of a call on the host, and the kernels it launches, where they were counted."""

    name: str
    times: Times
    launches: float | None

    @property
    def per_launch(self) -> float | None:
        """Microseconds divided by the number of kernels."""
        return self.times.median / self.launches if self.launches else None


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--calls", type=int, default=CALLS)
    parser.add_argument("--json", type=Path, help="write the costs there")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes, also in the simulator")
    options = parser.parse_args()
    try:
        places.use("cuda")
    except (ImportError, OSError) as error:
        parser.error(f"this measures a GPU's host and needs a GPU: {error}")
    if here().simulated and not options.tiny:
        parser.error("the GPU is simulated, which says nothing about launches; use --tiny to try")
    found = list(costs(options.calls, options.tiny))
    print(here().describe())
    print(table_of(found))
    if options.json:
        lines = [
            {"name": cost.name, "launches": cost.launches, **cost.times._asdict()} for cost in found
        ]
        options.json.write_text(json.dumps(lines, indent=1) + "\n")


def costs(repeats: int = CALLS, tiny: bool = False, counted: bool = True) -> Iterator[Cost]:
    """The cost of every call, with CuPy arrays and torch tensors; `counted`, with its kernels.

    A profiler counts the kernels after all calls were timed: it may slow down later launches.
    """
    put_in = {"CuPy": here().put}
    if torch is not None and not here().simulated:
        put_in["torch"] = here().tensor
    every = [launch_alone()]
    for library, put in put_in.items():
        every += [Call(f"{call.name}, {library}", call.run) for call in functions(put, tiny)]
    every += models(tiny)
    timed = [(call, host_times(call.run, repeats)) for call in every]
    counted = counted and torch is not None and not here().simulated
    for call, times in timed:
        launches = sum(k.launches for k in kernels_of(call.run)) if counted else None
        yield Cost(call.name, times, launches)


def host_times(run: Callable[[], object], repeats: int) -> Times:
    """Microseconds until a call returns, without waiting for the GPU."""
    found = []
    if not here().simulated:
        run()
    with no_garbage_collection():
        for number in range(repeats):
            if number % AT_ONCE == 0 and not here().simulated:
                wait()
                run()  # wakes the GPU
            begun = time.perf_counter_ns()
            run()
            found.append(1e-3 * (time.perf_counter_ns() - begun))
    wait()
    return quartiles(found)


def functions(put: Callable[[np.ndarray], Any], tiny: bool) -> Iterator[Call]:
    """The public functions on a small batch of S1, and bags of S3."""
    shape = small_shape("S1", tiny)
    batch, spec = make_batch(shape), shape.spec(shape.block_sizes[0])
    values = rn.init_array(spec)
    array, sums, indices, grads = map(
        put, (values, np.zeros_like(values), batch.indices, batch.grad_out)
    )
    out = put(np.empty(shape.output_shape, np.float32))
    starts = put(np.empty((shape.batch, shape.num_tables, spec.num_blocks), np.int64))
    rn.lookup(array, indices, spec, out=out, starts=starts)
    step = {"grad_out": grads, "indices": indices, "spec": spec, "starts": starts}
    yield Call("lookup", partial(rn.lookup, array, indices, spec, out=out))
    yield Call("sgd_update", partial(rn.sgd_update, array, **step, lr=checks.LR))
    adagrad = partial(rn.adagrad_update, array, sums, **step, lr=checks.LR, eps=checks.EPS)
    yield Call("adagrad_update", adagrad)
    dense = put(np.ones((shape.batch, shape.embedding_dim), np.float32))
    width = shape.embedding_dim + (shape.num_tables + 1) * shape.num_tables // 2
    joined = put(np.empty((shape.batch, width), np.float32))
    interact = partial(rn.lookup_dot_interaction, array, indices, dense, spec, out=joined)
    yield Call("lookup_dot_interaction", interact)
    shape = small_shape("S3", tiny)
    batch, spec = make_batch(shape), shape.spec(shape.block_sizes[0])
    array, ids, offsets = map(put, (rn.init_array(spec), batch.flat, batch.offsets))
    pooled = put(np.empty(shape.output_shape, np.float32))
    yield Call("embedding_bag", partial(rn.embedding_bag, array, ids, offsets, spec, out=pooled))


def small_shape(name: str, tiny: bool) -> BenchShape:
    """A shape with a small batch."""
    shape = calls.shape_of(name, tiny)
    return replace(shape, batch=min(BATCH, shape.batch))


def models(tiny: bool) -> Iterator[Call]:
    """Scoring and a training step of a whole DLRM."""
    for size in DLRM_BATCHES[:1] if here().simulated else DLRM_BATCHES:
        step, inference = calls.step_and_inference(calls.model_of(tiny, size))
        yield Call(f"DLRM.logits, batch {size}", inference.run)
        yield Call(f"DLRM.train_step, batch {size}", step.run)


def launch_alone() -> Call:
    """A launch by numba-cuda's dispatcher of a kernel with one argument."""
    from numba import cuda

    @cuda.jit
    def nothing(x: Any) -> None:
        pass

    array = cuda.to_device(np.zeros(1, np.float32))
    return Call("numba-cuda: a kernel that does nothing", partial(nothing[1, 32], array))


def table_of(found: list[Cost]) -> str:
    """A line for each call, as Markdown."""
    lines = []
    for cost in found:
        median, low, high, _ = cost.times
        each = "" if cost.per_launch is None else f"{cost.per_launch:.1f}"
        launches = "" if cost.launches is None else f"{cost.launches:.0f}"
        lines.append((cost.name, f"{median:.1f}", f"{low:.1f} to {high:.1f}", launches, each))
    return markdown_table(("call", "us", "quartiles", "kernels", "us per kernel"), lines)


if __name__ == "__main__":
    main()
