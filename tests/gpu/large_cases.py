"""Large batches, made of words that are the same everywhere, and digests of what they must give.

`python -m tests.gpu.large_cases` writes the digests anew, by the oracle in
`tests/support/numpy_oracle.py`; it takes some minutes. Starts, rows, pooled rows and sums of whole
numbers have the same bits on any machine, and a GPU's test compares digests faster than it could
compute them again.
"""

import hashlib
import json
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from robe_numba import RobeSpec
from tests.support import numpy_oracle

DIGESTS = Path(__file__).with_name("large_cases.json")
BATCH = 65_536
SPECS = {
    "one block a row": RobeSpec(25_000_000, 128, 128, 26, alignment=32),
    "short blocks": RobeSpec(25_000_000, 8, 128, 26),
    "signs, odd sizes": RobeSpec(540_001, 7, 33, 26, sign=True),
    "aligned short blocks": RobeSpec(540_672, 4, 16, 26, alignment=4),
    "single elements": RobeSpec(540_000, 1, 16, 26),
}
BAG_SPEC = RobeSpec(25_000_000, 64, 64, 26)
PADDING_IDX = 5


class Bags(NamedTuple):
    """Bags of up to 40 ids each, some empty."""

    indices: np.ndarray  # int64 (n,)
    offsets: np.ndarray  # int64 (num_tables * batch + 1,)
    weights: np.ndarray | None  # float32 (n,)


def words(seed, *shape):
    """Random uint64 words: unlike NumPy's distributions, Philox has a stream that never changes."""
    key = np.array([seed, 2**63], np.uint64)
    return np.random.Philox(key=key).random_raw(int(np.prod(shape))).reshape(shape)


def ids_of(spec, frequent=False, batch=BATCH):
    """int64 (batch, num_tables) ids below 2^40: uniform, or as many of each length in bits, so that
    a twentieth of all are 0.
    """
    ids = words(0, batch, spec.num_tables) >> np.uint64(24)
    if frequent:
        ids >>= words(1, batch, spec.num_tables) % np.uint64(20) * np.uint64(2) + np.uint64(2)
    return ids.astype(np.int64)


def array_of(spec, dtype=np.float32):
    """Values in [-1/2, 1/2) of 24 bits."""
    values = (words(2, spec.array_size) >> np.uint64(40)).astype(np.float32)
    return (values * np.float32(2**-24) - np.float32(0.5)).astype(dtype)


def whole_gradients(spec, batch=BATCH):
    """float32 (batch, num_tables, d) of whole numbers from -4 to 4, whose sums are exact in any
    order.
    """
    shape = (batch, spec.num_tables, spec.embedding_dim)
    values = words(3, -(-int(np.prod(shape)) // 8)).view(np.uint8)[: int(np.prod(shape))]
    return (values % 9).astype(np.float32).reshape(shape) - 4


def bags_of(mode, batch=8192):
    """Bags of `BAG_SPEC`; sums are weighted."""
    sizes = (words(4, batch * BAG_SPEC.num_tables) % np.uint64(41)).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    indices = (words(5, offsets[-1]) >> np.uint64(33)).astype(np.int64)
    indices[::50] = PADDING_IDX
    weights = array_of(BAG_SPEC)[: indices.size] if mode == "sum" else None
    return Bags(indices, offsets, weights)


def digest(array):
    """SHA-256 of an array's bytes."""
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


def starts(spec):
    """int64 (BATCH, num_tables, blocks) of uniform ids."""
    return numpy_oracle.block_starts(ids_of(spec), spec)


def rows(spec, dtype):
    """float32 (BATCH, num_tables, d) of uniform ids, from an array of the dtype."""
    return numpy_oracle.lookup(array_of(spec, dtype).astype(np.float32), ids_of(spec), spec)


def gradient(spec, frequent):
    """float32 (m,): sums of whole numbers."""
    grads, ids = whole_gradients(spec), ids_of(spec, frequent)
    return numpy_oracle.lookup_gradient(grads, ids, spec).astype(np.float32)


def pooled(mode):
    """float32 (batch, num_tables, d)."""
    indices, offsets, weights = bags_of(mode)
    options = (mode, weights, PADDING_IDX)
    return numpy_oracle.embedding_bag(array_of(BAG_SPEC), indices, offsets, BAG_SPEC, *options)


CASES = {f"starts, {name}": partial(starts, spec) for name, spec in SPECS.items()}
for _dtype in ("float32", "float16"):
    CASES |= {f"rows, {n}, {_dtype}": partial(rows, s, _dtype) for n, s in SPECS.items()}
for _ids in ("uniform", "frequent"):
    CASES |= {
        f"gradient, {n}, {_ids} ids": partial(gradient, s, _ids == "frequent")
        for n, s in SPECS.items()
    }
CASES |= {f"bags, {mode}": partial(pooled, mode) for mode in ("sum", "mean", "max")}


def check(name, found):
    """Compare an array with a case's digest; if they differ, say where, which takes longer."""
    if digest(found) != json.loads(DIGESTS.read_text())[name]:
        expected = CASES[name]()
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected, err_msg=name)
        raise AssertionError(f"{name}: only the digest, or a zero's sign, is another")


def main():
    """Write the digests of all cases."""
    digests = {}
    for name, make in CASES.items():
        digests[name] = digest(make())
        print(name, digests[name])
    DIGESTS.write_text(json.dumps(digests, indent=1) + "\n")


if __name__ == "__main__":
    main()
