"""Forward pass of one id per table, against uncompressed tables and a copy of the output.

python perf/bench_lookup.py
python perf/bench_lookup.py --shape S1 --peers torch,torch-huge --ids zipf
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

import robe_numba as rn
from perf import peers
from perf.harness import checks, command, copies
from perf.harness.places import here
from perf.harness.race import Contender, Row, Workload, race
from perf.harness.shapes import ROWS, BenchBatch, BenchShape, make_batch

ALIGNMENT = 16  # elements: blocks start at cache lines


def measure(shape: BenchShape, options: Any) -> list[Row]:
    """One race of all block sizes and all peers."""
    shape = here().sized(shape)
    shape = here().fitting(shape, spare=6 * shape.output_bytes)
    batch = make_batch(shape, options.ids)
    work = Workload(
        "lookup", shape.name, "lookup", shape.num_ids, shape.output_bytes, 2 * shape.output_bytes
    )
    contenders = [
        *ours(batch),
        *peers.contenders(options.peers, batch),
        *copies.contenders(shape.output_bytes // 4),
    ]
    return race(work, contenders, options.repeats)


def ours(batch: BenchBatch) -> Iterator[Contender]:
    """Every block size: plain, aligned, from a float16 array, and on the CPU from int8."""
    shape = batch.shape
    array = here().put(rn.init_array(shape.spec(shape.block_sizes[0])))
    half = here().empty(array.shape, np.float16)
    half[...] = array
    quantized = rn.quantize(array) if here().device == "cpu" else None
    for block_size in shape.block_sizes:
        spec = shape.spec(block_size)
        yield contender("robe", array, batch, spec)
        if block_size > 1:
            aligned = shape.spec(block_size, alignment=min(ALIGNMENT, block_size))
            yield contender("robe, aligned", array, batch, aligned)
        try:
            moved = shape.output_bytes * 3 // 2  # reads float16, writes float32
            yield replace(contender("robe, float16", half, batch, spec), bytes=moved)
        except TypeError as error:
            note = f"absent: {error}"
            yield Contender("robe, float16", None, block_size=block_size, note=note)
        if quantized is not None:
            moved = shape.output_bytes * 5 // 4  # reads int8, writes float32
            yield replace(contender("robe, int8", quantized, batch, spec), bytes=moved)


def contender(name: str, array: Any, batch: BenchBatch, spec: rn.RobeSpec) -> Contender:
    """A lookup into an existing output, checked."""
    indices, out = here().put(batch.indices), here().empty(batch.shape.output_shape, np.float32)
    run = partial(rn.lookup, array, indices, spec, out=out)
    run()
    quantized = isinstance(array, rn.QuantizedArray)
    values = array.dequantize() if quantized else here().fetch(array)
    checks.check_forward(out, values, batch, spec)
    return Contender(name, run, block_size=spec.block_size)


if __name__ == "__main__":
    command.main("lookup", __doc__, ROWS, measure)
