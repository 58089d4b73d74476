"""One launch of each main kernel, for a profiler or a memory checker around this process.

python -m perf.gpu.launch_each          large batches, within the range that the profiler records
python -m perf.gpu.launch_each --tiny   every kernel; each array has its own allocation
"""

import sys
from collections.abc import Iterator

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
LARGE = ("lookups of S1", "bags", "interaction")  # the kinds of calls with some of these


def main() -> None:
    """Compile first, then launch within the profiler's range."""
    tiny = "--tiny" in sys.argv[1:]
    places.use("cuda")
    if not here().simulated and tiny:
        here().xp.cuda.set_allocator(None)  # no pool, so an access outside an array is an error
    for call in all_calls(tiny):
        if tiny or call.name in PROFILED:
            print(call.name, flush=True)
            launch(call)
    print("all launched", flush=True)


def all_calls(tiny: bool) -> Iterator[calls.Call]:
    """What is launched; with tiny shapes a whole model too."""
    for kind in calls.KINDS if tiny else LARGE:
        yield from calls.KINDS[kind](tiny)
    if tiny:
        yield from calls.step_and_inference(calls.model_of(tiny))
        return
    yield from calls.steps(tiny, "uniform", ("sgd",))
    yield from calls.steps(tiny, "zipf", ("adagrad",))


def launch(call: calls.Call) -> None:
    """Launch once to compile, once for the profiler."""
    call.run()
    wait()
    if here().simulated:
        return
    here().xp.cuda.runtime.profilerStart()
    call.run()
    wait()
    here().xp.cuda.runtime.profilerStop()


if __name__ == "__main__":
    main()
