"""One launch of each main kernel, for a profiler or a checker of memory around this process.

python -m gpu.launches          large batches, within the range that profilers are told of
python -m gpu.launches --tiny   every kernel; each array has memory of its own
"""

import sys
from collections.abc import Iterator
from dataclasses import replace

from perf import bench_dlrm
from perf.gpu import calls
from perf.gpu.device_times import wait
from perf.harness import places
from perf.harness.places import here

PROFILED = (
    "lookup S1 Z=128 alignment 32",
    "lookup S1 Z=128 alignment 1",
    "lookup S1 Z=32 alignment 1",
    "bags S3 Z=64 alignment 1",
    "update S1 SGD, uniform ids",
    "update S1 Adagrad, zipf ids",
    "lookup and dot S1",
)
LARGE = ("lookups of S1", "bags", "interaction")  # kinds of work that have some of these


def main() -> None:
    """Compile first, then launch within the range."""
    tiny = "--tiny" in sys.argv[1:]
    places.use("cuda")
    if not here().simulated and tiny:
        here().xp.cuda.set_allocator(None)  # no pool: what is outside an array is nobody's
    for item in items(tiny):
        if tiny or item.name in PROFILED:
            print(item.name, flush=True)
            launch(item)
    print("all launched", flush=True)


def items(tiny: bool) -> Iterator[calls.Item]:
    """What is launched; in tiny shapes a whole model too."""
    for kind in calls.KINDS if tiny else LARGE:
        yield from calls.KINDS[kind](tiny)
    if not tiny:
        yield from calls.steps(tiny, "uniform", ("sgd",))
        yield from calls.steps(tiny, "zipf", ("adagrad",))
        return
    model = bench_dlrm.SHAPES["tiny"]
    model = replace(model, shape=here().sized(model.shape))
    step, infer = bench_dlrm.ours(model, bench_dlrm.make_data(model, "uniform"), 1)
    yield calls.Item("DLRM step", step.run)
    yield calls.Item("DLRM inference", infer.run)


def launch(item: calls.Item) -> None:
    """Once to compile, once for who looks on."""
    item.run()
    wait()
    if here().simulated:
        return
    here().xp.cuda.runtime.profilerStart()
    item.run()
    wait()
    here().xp.cuda.runtime.profilerStop()


if __name__ == "__main__":
    main()
