"""From a spec to the constants of its hash: drawn once, cached, and the same on every machine.

Random words come from NumPy's Philox, a counter-based generator with a stable stream: word j of
table t is word j of the stream keyed by (seed, t), whatever the number of tables and blocks.
"""

from functools import lru_cache
from itertools import accumulate

import numpy as np

from robe_numba.kernels.scalar.hashing import HashSpec
from robe_numba.spec import PAPER_PRIME, UMA_PRIME, RobeSpec, Spec, TableSpec

# The second word of the key: tables count from here, so that the streams never meet.
STARTS, SIGNS, PAPER = 0, 1 << 32, 2 << 32
# Plain tables are the modular family with a modulus that no position reaches.
NO_MODULUS = 1 << 63


@lru_cache(maxsize=1024)
def hash_spec(spec: Spec) -> HashSpec:
    """The kernels' constants of a spec."""
    if isinstance(spec, TableSpec):
        modulus, num_starts, coefficients = NO_MODULUS, spec.array_size, _table(spec)
    elif spec.hash == "multiply-shift":
        modulus, num_starts = 0, _aligned_starts(spec)
        coefficients = _multiply_shift(spec, words=3 if num_starts <= 2**32 else 6)
    elif spec.hash == "paper":
        modulus, num_starts = PAPER_PRIME, _aligned_starts(spec)
        coefficients = _paper(spec)
    else:
        modulus, num_starts = UMA_PRIME, spec.array_size - spec.block_size + 1
        coefficients = _uma(spec)
    return HashSpec(
        array_size=np.uint64(spec.array_size),
        block_size=np.uint64(spec.block_size),
        embedding_dim=np.uint64(spec.embedding_dim),
        num_tables=np.uint64(spec.num_tables),
        num_blocks=np.uint64(spec.num_blocks),
        modulus=np.uint64(modulus),
        num_starts=np.uint64(num_starts),
        alignment=np.uint64(1 if isinstance(spec, TableSpec) else spec.alignment),
        sign=spec.sign,
        coefficients=_read_only(coefficients),
        sign_keys=_read_only(_sign_keys(spec)),
    )


@lru_cache(maxsize=64)
def side_by_side(specs: tuple[RobeSpec, ...]) -> HashSpec:
    """The constants of the tables of several specs that differ in tables and seeds alone."""
    each = [hash_spec(spec) for spec in specs]
    return each[0]._replace(
        num_tables=np.uint64(sum(spec.num_tables for spec in specs)),
        coefficients=_read_only(np.concatenate([one.coefficients for one in each], axis=1)),
        sign_keys=_read_only(np.concatenate([one.sign_keys for one in each])),
    )


def _read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


def _aligned_starts(spec: RobeSpec) -> int:
    """The number of multiples of the alignment in [0, m)."""
    return -(-spec.array_size // spec.alignment)


def _words(seed: int, stream: int, count: int) -> np.ndarray:
    """The first `count` 64-bit words of the stream (seed, stream)."""
    generator = np.random.Philox(key=np.array([seed, stream], dtype=np.uint64))
    return np.asarray(generator.random_raw(count), dtype=np.uint64)


def _multiply_shift(spec: RobeSpec, words: int) -> np.ndarray:
    shape = (spec.num_blocks, words)
    tables = [
        _words(spec.seed, STARTS + t, spec.num_blocks * words).reshape(shape)
        for t in range(spec.num_tables)
    ]
    return np.ascontiguousarray(np.moveaxis(np.stack(tables), -1, 0))


def _modular(multiplier: int, bases: list[list[int]]) -> np.ndarray:
    """Coefficients (multiplier, base) with one base per table and block."""
    base = np.array(bases, dtype=np.uint64)
    return np.stack([np.full_like(base, multiplier), base])


def _paper(spec: RobeSpec) -> np.ndarray:
    """(A t + B x + C k + D) mod P, of which all but B x is the base."""
    a, b, c, d = (int(w) % PAPER_PRIME for w in _words(spec.seed, PAPER, 4))
    b = b or 1  # a zero multiplier would send every id to one place
    bases = [
        [(a * t + c * k + d) % PAPER_PRIME for k in range(spec.num_blocks)]
        for t in range(spec.num_tables)
    ]
    return _modular(b, bases)


def _uma(spec: RobeSpec) -> np.ndarray:
    """((x + offset_t) A + k B + C) mod P, with the draws of the authors' release."""
    draws = np.random.RandomState(spec.seed).randint(0, UMA_PRIME, 50)
    c, b, a = (int(draw) for draw in draws[:3])
    bases = [
        [(offset * a + k * b + c) % UMA_PRIME for k in range(spec.num_blocks)]
        for offset in _offsets(spec.num_embeddings or (0,))
    ]
    return _modular(a, bases)


def _table(spec: TableSpec) -> np.ndarray:
    """(x + offset_t) d: rows one after the other."""
    dim = spec.embedding_dim
    return _modular(dim, [[offset * dim] for offset in _offsets(spec.num_embeddings)])


def _offsets(num_embeddings: tuple[int, ...]) -> list[int]:
    return list(accumulate(num_embeddings[:-1], initial=0))


def _sign_keys(spec: Spec) -> np.ndarray:
    groups = -(-spec.embedding_dim // 64) if spec.sign else 0
    keys = np.zeros((spec.num_tables, groups), dtype=np.uint64)
    for t in range(spec.num_tables if groups else 0):
        assert isinstance(spec, RobeSpec)  # plain tables have no signs
        keys[t] = _words(spec.seed, SIGNS + t, groups)
    return keys
