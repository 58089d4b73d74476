"""What the host pays for a call on a GPU: microseconds in Python until all is asked for.

python perf/gpu/bench_launch.py                 needs a GPU, and half a minute
python perf/gpu/bench_launch.py --json launch.json

Batches are small, so that the GPU is never what is waited for. Calls follow each other without
waiting, but for its queue to empty every now and then, which is not timed.
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
from perf import bench_dlrm
from perf.gpu.device_times import Times, quartiles, wait
from perf.gpu.profiler import kernels_of
from perf.harness import checks, places
from perf.harness.libraries import torch
from perf.harness.places import here
from perf.harness.race import no_garbage_collection
from perf.harness.shapes import BAGS, ROWS, TINY, make_batch

CALLS = 300
AT_ONCE = 20  # calls, after which the queue is emptied
BATCH = 64
DLRM_BATCHES = (1, 64)


@dataclass(frozen=True)
class Call:
    """One call of a public function."""

    name: str
    run: Callable[[], object]


@dataclass(frozen=True)
class Cost:
    """Microseconds of a call on the host, and the kernels that it launches, if they are known."""

    name: str
    times: Times
    launches: float | None

    @property
    def per_launch(self) -> float | None:
        """Microseconds of each kernel's share."""
        return self.times.median / self.launches if self.launches else None


def main() -> None:
    """Measure, print a table, leave JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--calls", type=int, default=CALLS)
    parser.add_argument("--json", type=Path, help="write the costs there")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes, also in the simulator")
    options = parser.parse_args()
    try:
        places.use("cuda")
    except (ImportError, OSError) as error:
        parser.error(f"this measures a GPU's host and needs one: {error}")
    if here().simulated and not options.tiny:
        parser.error("the GPU is simulated, which says nothing about launches; use --tiny to try")
    found = list(costs(options.calls, options.tiny))
    print(here().describe())
    print(table(found))
    if options.json:
        lines = [
            {"name": cost.name, "launches": cost.launches, **cost.times._asdict()} for cost in found
        ]
        options.json.write_text(json.dumps(lines, indent=1) + "\n")


def costs(calls: int = CALLS, tiny: bool = False, counted: bool = True) -> Iterator[Cost]:
    """Of every call, for CuPy's arrays and torch's tensors; `counted`, with its kernels.

    A profiler counts the kernels, after all calls were timed: it may leave launches slower.
    """
    put_in = {"CuPy": here().put}
    if torch is not None and not here().simulated:
        put_in["torch"] = here().tensor
    every = [launch_alone()]
    for library, put in put_in.items():
        every += [Call(f"{call.name}, {library}", call.run) for call in functions(put, tiny)]
    every += models(tiny)
    timed = [(call, host_times(call.run, calls)) for call in every]
    counted = counted and torch is not None and not here().simulated
    for call, times in timed:
        launches = sum(k.launches for k in kernels_of(call.run)) if counted else None
        yield Cost(call.name, times, launches)


def host_times(run: Callable[[], object], calls: int) -> Times:
    """Microseconds until a call returns, nobody waiting for the GPU."""
    found = []
    if not here().simulated:
        run()
    with no_garbage_collection():
        for number in range(calls):
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
    shape = here().sized(ROWS[TINY.name if tiny else "S1"])
    shape = replace(shape, batch=min(BATCH, shape.batch))
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
    shape = here().sized(BAGS[TINY.name if tiny else "S3"])
    shape = replace(shape, batch=min(BATCH, shape.batch))
    batch, spec = make_batch(shape), shape.spec(shape.block_sizes[0])
    array, ids, offsets = map(put, (rn.init_array(spec), batch.flat, batch.offsets))
    pooled = put(np.empty(shape.output_shape, np.float32))
    yield Call("embedding_bag", partial(rn.embedding_bag, array, ids, offsets, spec, out=pooled))


def models(tiny: bool) -> Iterator[Call]:
    """Scoring with a whole DLRM, and a step."""
    for size in DLRM_BATCHES[:1] if here().simulated else DLRM_BATCHES:
        model = bench_dlrm.SHAPES["tiny" if tiny else "mlperf"]
        shape = here().sized(model.shape)
        model = replace(model, shape=replace(shape, batch=min(size, shape.batch)))
        step, infer = bench_dlrm.ours(model, bench_dlrm.make_data(model, "uniform"), 1)
        yield Call(f"DLRM.logits, batch {size}", infer.run)
        yield Call(f"DLRM.train_step, batch {size}", step.run)


def launch_alone() -> Call:
    """A launch of numba-cuda's dispatcher, of a kernel with one argument."""
    from numba import cuda

    @cuda.jit
    def nothing(x):
        pass

    array = cuda.to_device(np.zeros(1, np.float32))
    return Call("numba-cuda: a kernel that does nothing", partial(nothing[1, 32], array))


def table(found: list[Cost]) -> str:
    """Markdown."""
    lines = ["| call | us | quartiles | kernels | us per kernel |", "|---|---|---|---|---|"]
    for cost in found:
        median, low, high, _ = cost.times
        each = "" if cost.per_launch is None else f"{cost.per_launch:.1f}"
        launches = "" if cost.launches is None else f"{cost.launches:.0f}"
        lines.append(
            f"| {cost.name} | {median:.1f} | {low:.1f} to {high:.1f} | {launches} | {each} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
