"""Speed against one parameter at a time: block size, batch, array size, threads.

python perf/bench_sweeps.py
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import robe_numba as rn
from perf import bench_lookup, bench_update, peers
from perf.harness import command, copies
from perf.harness.race import Row, Workload, race
from perf.harness.shapes import S1, TINY, BenchShape, make_batch

SHAPES = {"S1": S1, "tiny": TINY}
Points = list[tuple[float, BenchShape]]


def measure(shape: BenchShape, options: Any) -> Iterator[Row]:
    """All sweeps of one shape."""
    tiny = shape.name == command.TINY
    for name, points in sweeps(shape, tiny).items():
        for x, point in points:
            yield from one_race(name, x, point, options)
    for threads in range(1, options.threads + 1):
        command.set_threads(threads)
        yield from one_race("threads", threads, largest_blocks(shape), options)


def sweeps(shape: BenchShape, tiny: bool) -> dict[str, Points]:
    """The values of each sweep, and the shape at each."""
    base, d = largest_blocks(shape), shape.embedding_dim
    block_sizes = (1, d) if tiny else (1, 2, 4, 8, 16, 32, 64, 128)
    batches = (8, 32) if tiny else (64, 256, 1024, 2048, 4096, 16384)
    sizes = (12, 14) if tiny else range(14, 29)  # logarithms; 64 KiB to 1 GiB
    return {
        "block size": [(z, replace(shape, block_sizes=(z,))) for z in block_sizes],
        "batch": [(batch, replace(base, batch=batch)) for batch in batches],
        "array size": [(4 << n, with_array(base, 1 << n)) for n in sizes],
    }


def with_array(shape: BenchShape, array_size: int) -> BenchShape:
    """Another array size, and peers' tables of the same size, at least a row each."""
    least = shape.embedding_dim * shape.num_tables
    return replace(shape, array_size=array_size, table_bytes=4 * max(array_size, least))


def largest_blocks(shape: BenchShape) -> BenchShape:
    """The shape with only its first block size: one block per row."""
    return replace(shape, block_sizes=shape.block_sizes[:1])


def one_race(name: str, x: float, shape: BenchShape, options: Any) -> list[Row]:
    """Our lookup and SGD step, torch's lookup, and the copy."""
    batch = make_batch(shape, options.ids)
    work = Workload("sweeps", shape.name, name, shape.num_ids, shape.output_bytes, x=x)
    spec = shape.spec(shape.block_sizes[0])
    lookup = bench_lookup.contender("lookup", rn.init_array(spec), batch, spec)
    contenders = [
        lookup,
        replace(next(bench_update.ours(batch, "sgd")), name="SGD step"),
        *peers.contenders([n for n in options.peers if n == "torch-huge"], batch),
        *copies.contenders(shape.output_bytes // 4),
    ]
    return race(work, contenders, options.repeats)


if __name__ == "__main__":
    command.main("sweeps", __doc__, SHAPES, measure, devices=("cpu",))
