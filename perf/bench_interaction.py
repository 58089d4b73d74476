"""Lookup and dot interaction in one pass, in two, and in torch.

On one thread and on all of them, or on a GPU.

python perf/bench_interaction.py
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numba
import numpy as np

import robe_numba as rn
from perf import peers
from perf.harness import checks, command
from perf.harness.places import here
from perf.harness.race import Contender, Row, Workload, race
from perf.harness.shapes import ROWS, BenchBatch, BenchShape, make_batch
from robe_numba.dlrm.backends import backend_for
from robe_numba.dlrm.layers.interaction import dot_interaction, dot_width

SHAPES = {name: shape for name, shape in ROWS.items() if name != "S2"}


def measure(shape: BenchShape, options: Any) -> Iterator[Row]:
    """A race on one thread and one on all of them; on a GPU one race."""
    shape = here().sized(shape)
    batch = make_batch(shape, options.ids)
    dense = np.random.default_rng(1).random((shape.batch, shape.embedding_dim), np.float32)
    contenders = [*ours(batch, dense), *torch(batch, dense, options.peers)]
    work = Workload("interaction", shape.name, "lookup and interaction", shape.batch)
    for threads in sorted({1, options.threads}) if here().device == "cpu" else (options.threads,):
        command.set_threads(threads)
        yield from race(work, contenders, options.repeats)


def ours(batch: BenchBatch, dense: np.ndarray) -> Iterator[Contender]:
    """Fused, and as training does it: a lookup, then the interaction by parts of the batch."""
    shape = batch.shape
    spec = shape.spec(shape.block_sizes[0])
    values = rn.init_array(spec)
    array, indices, features = map(here().put, (values, batch.indices, dense))
    embeddings = here().empty(shape.output_shape, np.float32)
    width = dot_width(shape.num_tables, shape.embedding_dim)
    fused, unfused = (here().empty((shape.batch, width), np.float32) for _ in range(2))
    backends = {}

    def in_two_passes() -> None:
        rn.lookup(array, indices, spec, out=embeddings)
        threads = numba.get_num_threads()
        if threads not in backends:
            backends[threads] = backend_for(here().device, threads)
        parts = backends[threads].split(shape.batch)

        def interact(part: int) -> None:
            rows = parts[part]
            dot_interaction(features[rows], embeddings[rows], unfused[rows])

        backends[threads].run(interact, len(parts))

    in_one_pass = partial(rn.lookup_dot_interaction, array, indices, features, spec, out=fused)
    in_one_pass()
    in_two_passes()
    head = batch.head(checks.SAMPLES)
    rows = values[checks.positions(head.indices, spec)]
    expected = checks.interaction(dense[: head.shape.batch], rows)
    for out in (fused, unfused):
        found = here().fetch(out[: head.shape.batch])
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    yield Contender("robe, fused", in_one_pass, block_size=spec.block_size)
    yield Contender("robe, two passes", in_two_passes, block_size=spec.block_size)


def torch(batch: BenchBatch, dense: np.ndarray, names: list[str]) -> Iterator[Contender]:
    """The same in torch: embedding_bag, bmm and a gather."""
    if "torch" not in names:
        return
    if peers.missing("torch"):
        yield peers.absent("torch")
        return
    from perf.peers.dlrm import TorchInteraction

    peer = TorchInteraction(batch, dense)
    peer.check()
    count = min(checks.SAMPLES, batch.shape.batch)
    vectors = peer.forward().view(batch.shape.output_shape)[:count].cpu().numpy()
    expected = checks.interaction(dense[:count], vectors)
    found = peer.interact()[:count].cpu().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    yield Contender("torch", peer.interact, "peer")


if __name__ == "__main__":
    command.main("interaction", __doc__, SHAPES, measure)
