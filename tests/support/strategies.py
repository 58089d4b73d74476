"""Random specs and batches for property tests: every family, shape, dtype and mode."""

from typing import NamedTuple

import ml_dtypes
import numpy as np
from hypothesis import strategies as st

from robe_numba import QuantizedArray, RobeSpec, TableSpec

INDEX_DTYPES = ("int32", "int64", "uint32", "uint64")
MODES = ("sum", "mean", "max")
REAL_DTYPES = ("float32", "float64")
HALF_DTYPES = ("float16", "bfloat16")
SCALE_BLOCKS = (16, 32, 128, 4096)
# Ids at which integer arithmetic goes wrong, beside small ones that collide and repeat.
EDGES = (0, 1, 2, 3, 2**31 - 2, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1)


@st.composite
def robe_specs(draw, hashes=("multiply-shift", "paper", "uma"), max_size=300):
    """Blocks that divide d and that do not, Z > d, arrays that barely hold a block, and large."""
    hash_name = draw(st.sampled_from(hashes))
    block_size = draw(st.one_of(st.integers(1, 40), st.sampled_from([1, 4, 8, 16, 64, 70])))
    num_tables = draw(st.one_of(st.integers(1, 4), st.sampled_from([7, 8, 9, 26])))
    sizes = st.lists(st.integers(1, 2**40), min_size=num_tables, max_size=num_tables)
    plain = hash_name == "uma"
    needs_sizes = plain and num_tables > 1
    embedding_dim = draw(st.one_of(st.integers(1, 40), st.sampled_from([64, 65, 130, 300])))
    max_size *= draw(st.sampled_from([1, 10]))  # in small arrays most blocks wrap, in larger few
    return RobeSpec(
        array_size=draw(st.integers(block_size, max(block_size, max_size))),
        block_size=block_size,
        embedding_dim=embedding_dim,
        num_tables=num_tables,
        num_embeddings=draw(sizes if needs_sizes else st.one_of(st.none(), sizes)),
        hash=hash_name,
        seed=draw(st.integers(0, 2**32 - 1 if plain else 2**64 - 1)),
        sign=False if plain else draw(st.booleans()),
        alignment=1 if plain else draw(st.integers(1, min(block_size, embedding_dim))),
    )


@st.composite
def table_specs(draw):
    """Plain tables of a few rows."""
    sizes = draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    return TableSpec(tuple(sizes), draw(st.integers(1, 20)))


specs = st.one_of(robe_specs(), robe_specs(), table_specs())


def _id(draw, spec, table, dtype):
    info = np.iinfo(dtype)
    if spec.num_embeddings is not None:
        return draw(st.integers(0, min(spec.num_embeddings[table] - 1, info.max)))
    edges = [edge for edge in EDGES if edge <= info.max] + [int(info.min)]
    return draw(st.one_of(st.integers(0, 3), st.sampled_from(edges)))


@st.composite
def indices_for(draw, spec, max_batch=5, dtypes=INDEX_DTYPES):
    """(batch, num_tables) ids of any of the dtypes, empty batches among them."""
    dtype = np.dtype(draw(st.sampled_from(dtypes)))
    batch = draw(st.integers(0, max_batch))
    rows = [[_id(draw, spec, t, dtype) for t in range(spec.num_tables)] for _ in range(batch)]
    return np.array(rows, dtype=dtype).reshape(batch, spec.num_tables)


def array_for(spec, dtype, seed, whole=False):
    """Values of an array: whole numbers, whose sums are exact in any order, or any."""
    generator = np.random.default_rng(seed)
    if whole:
        return generator.integers(-50, 50, spec.array_size).astype(dtype)
    return generator.standard_normal(spec.array_size).astype(dtype_of(dtype))


def quantized_for(spec, block, seed):
    """Any int8, and scales of any sign and size, zeros and subnormals among them."""
    generator = np.random.default_rng(seed)
    values = generator.integers(-128, 128, spec.array_size, np.int8)
    scales = generator.standard_normal(-(-spec.array_size // block)).astype(np.float32)
    scales *= generator.choice(np.array([1, 1, 1, 0, 1e-42], np.float32), scales.size)
    return QuantizedArray(values, scales, block)


def dtype_of(name):
    """A dtype by its name; NumPy alone does not know bfloat16."""
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def widened(array):
    """Halves as float32, bfloat16 by its definition: the upper half of the bits."""
    if array.dtype == ml_dtypes.bfloat16:
        return (array.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.promote_types(array.dtype, np.float32))


class Bags(NamedTuple):
    """The arguments of one bag call."""

    indices: np.ndarray
    offsets: np.ndarray
    mode: str | tuple[str, ...]  # of all tables, or of each
    weights: np.ndarray | None
    padding_idx: int | None


@st.composite
def bags_for(draw, spec, dtype, max_batch=3, whole=False, dtypes=INDEX_DTYPES, mixed=True):
    """CSR bags, empty ones and padding among them, with weights where the mode takes them; ids and
    offsets are of any of the dtypes. Tables may have modes of their own if `mixed`.
    """
    index_dtype = np.dtype(draw(st.sampled_from(dtypes)))
    batch = draw(st.integers(0, max_batch))
    num_bags = spec.num_tables * batch
    sizes = draw(st.lists(st.integers(0, 4), min_size=num_bags, max_size=num_bags))
    ids = [
        _id(draw, spec, bag // batch, index_dtype)
        for bag, size in enumerate(sizes)
        for _ in range(size)
    ]
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(draw(st.sampled_from(dtypes)))
    mode, weights = draw(st.sampled_from(MODES)), None
    if mixed and draw(st.booleans()):
        mode = tuple(draw(st.sampled_from(MODES)) for _ in range(spec.num_tables))
    if mode not in ("mean", "max") and draw(st.booleans()):
        generator = np.random.default_rng(draw(st.integers(0, 99)))
        values = generator.integers(-3, 4, len(ids)) if whole else generator.normal(size=len(ids))
        values *= generator.random(len(ids)) < 0.9  # some weights are 0
        summed = [
            mode == "sum" or mode[bag // batch] == "sum"
            for bag, size in enumerate(sizes)
            for _ in range(size)
        ]
        weights = np.where(summed, values, 1).astype(dtype)
    padding = draw(st.one_of(st.none(), st.sampled_from([-1, *ids])))
    return Bags(np.array(ids, dtype=index_dtype), offsets, mode, weights, padding)
