"""Block starts per second of every hash family, against the same arithmetic in NumPy.

python perf/bench_hash.py
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

import robe_numba as rn
from perf.harness import command
from perf.harness.race import Contender, Row, Workload, race
from perf.harness.shapes import ROWS, BenchShape, make_batch
from robe_numba.kernels.coefficients import hash_spec
from robe_numba.spec import HASHES

U32, U33 = np.uint64(32), np.uint64(33)
LOW_WORD = np.uint64(0xFFFFFFFF)
MIX_1, MIX_2 = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)


def measure(shape: BenchShape, options: Any) -> Iterator[Row]:
    """A race for each family and block size."""
    indices = make_batch(shape, options.ids).indices
    sizes = (shape.rows,) * shape.num_tables
    for family in HASHES:
        for block_size in shape.block_sizes:
            known = sizes if family == "uma" else None
            spec = shape.spec(block_size, hash=family, num_embeddings=known)
            work = Workload("hash", shape.name, f"starts, {family}", indices.size * spec.num_blocks)
            ours = partial(rn.block_starts, indices, spec)
            numpy = partial(starts_by_numpy, indices, spec)
            np.testing.assert_array_equal(ours(), numpy())
            contenders = [
                Contender("robe", ours, block_size=block_size),
                Contender("NumPy", numpy, "peer", block_size),
            ]
            yield from race(work, contenders, options.repeats)


def starts_by_numpy(indices: np.ndarray, spec: rn.RobeSpec) -> np.ndarray:
    """The formulas of docs/design.md: (n, num_tables, num_blocks)."""
    constants = hash_spec(spec)
    c, ids = constants.coefficients, indices.view(np.uint64)[:, :, None]
    if constants.modulus:
        words = (c[0] * (ids % constants.modulus) + c[1]) % constants.modulus
        return words % constants.num_starts * constants.alignment
    key = (ids ^ (ids >> U33)) * MIX_1
    key = (key ^ (key >> U33)) * MIX_2
    key ^= key >> U33
    word = (c[0] * (key & LOW_WORD) + c[1] * (key >> U32) + c[2]) >> U32
    return ((word * constants.num_starts) >> U32) * constants.alignment


if __name__ == "__main__":
    command.main("hash", __doc__, ROWS, measure, devices=("cpu",))
