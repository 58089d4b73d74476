"""Hash families: golden values, the oracle, and what a hash must be like as a random function."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from robe_numba import RobeSpec, block_starts, embedding_bag, lookup_backward
from robe_numba.kernels.scalar.hashing import block_start, high_product, mix, row_key, sign_word
from tests.support import naive
from tests.support.strategies import indices_for, specs

# The authors' release at seed 1024 and m = 27,000,000.
UMA_PLACES = ((0, 0), (0, 33), (1, 0), (12345678, 127))  # (row, element)
UMA_GOLDEN = {
    1: (13329019, 8485425, 20534375, 15446443),
    32: (13329732, 16506983, 20536080, 18466551),
    128: (13331940, 13331973, 20541360, 8941809),
}


@pytest.mark.parametrize("block_size", UMA_GOLDEN)
@pytest.mark.parametrize("num_embeddings", [None, (20_000_000,)])
def test_uma_reproduces_the_authors_release(block_size, num_embeddings):
    spec = RobeSpec(27_000_000, block_size, 128, 1, num_embeddings, hash="uma", seed=1024)
    for (row, element), golden in zip(UMA_PLACES, UMA_GOLDEN[block_size], strict=True):
        starts = block_starts(np.array([[row]]), spec)[0, 0]
        assert starts[element // block_size] + element % block_size == golden


def test_uma_numbers_the_rows_of_all_tables_in_one_sequence():
    several = RobeSpec(10_000, 4, 8, 3, (5, 7, 9), hash="uma", seed=1024)
    one = RobeSpec(10_000, 4, 8, 1, (21,), hash="uma", seed=1024)
    starts = block_starts(np.array([[2, 2, 2]]), several)[0]
    expected = block_starts(np.array([[2], [5 + 2], [5 + 7 + 2]]), one)[:, 0]
    np.testing.assert_array_equal(starts, expected)


@given(st.data())
def test_starts_equal_the_oracle(data):
    spec = data.draw(specs)
    indices = data.draw(indices_for(spec))
    starts = block_starts(indices, spec)
    assert starts.dtype == np.int64
    np.testing.assert_array_equal(starts, naive.block_starts(indices, spec))


@given(
    size=st.integers(2**32 - 2, 2**62),
    alignment=st.sampled_from([1, 4, 16]),
    seed=st.integers(0, 9),
)
@example(size=2**32, alignment=1, seed=0)
@example(size=2**36, alignment=16, seed=0)
def test_arrays_beyond_32_bits_equal_the_oracle(size, alignment, seed):
    spec = RobeSpec(size, 16, 40, 2, seed=seed, alignment=alignment)
    indices = np.array([[0, 2**64 - 1], [2**32, 12345]], dtype=np.uint64)
    starts = block_starts(indices, spec)
    np.testing.assert_array_equal(starts, naive.block_starts(indices, spec))
    assert starts.max() >= 2**31  # the upper part of the array is reached


@pytest.mark.parametrize(
    ("size", "alignment", "length"),
    [
        (2**32, 1, 16),  # 2**32 starts, which just fit one word
        (2**36 - 5, 16, 16),
        (2**62, 2**31, 2**31),  # the largest alignment
        (2**62, 2**30, 2**30),  # exactly 2**32 starts
        (2**31 + 1, 2**31, 2**31),  # two starts, the second one a block of one element
        (1, 1, 1),
    ],
)
def test_extreme_numbers_of_starts_equal_the_oracle(size, alignment, length):
    spec = RobeSpec(size, length, length, 9, seed=3, alignment=alignment)
    indices = np.random.default_rng(4).integers(0, 2**64, (3, 9), dtype=np.uint64)
    starts = block_starts(indices, spec)
    np.testing.assert_array_equal(starts, naive.block_starts(indices, spec))
    assert starts.max() < size
    assert starts.max() >= size // 2


@pytest.mark.parametrize("hash_name", ["multiply-shift", "paper"])
@pytest.mark.parametrize("num_tables", [1, 2, 5, 7, 8, 9, 26])
@pytest.mark.parametrize("num_blocks", [1, 2, 3, 7, 8, 9, 13])
def test_starts_in_vectors_equal_the_oracle(hash_name, num_tables, num_blocks, set_workers):
    """Groups of eight, of four and of one; workers begin in the middle of a sample."""
    spec = RobeSpec(10_007, 3, 3 * num_blocks - 1, num_tables, hash=hash_name, sign=True)
    indices = np.random.default_rng(5).integers(0, 2**64, (5, num_tables), dtype=np.uint64)
    expected = naive.block_starts(indices, spec)
    for workers in (1, 2, 3, 7):
        set_workers(workers)
        np.testing.assert_array_equal(block_starts(indices, spec), expected)
    flat = np.ascontiguousarray(indices.T).reshape(-1)
    kept = np.empty((flat.size, num_blocks), np.int64)
    array = np.zeros(spec.array_size, np.float32)
    offsets = np.arange(flat.size + 1)  # table-major, one id per bag
    embedding_bag(array, flat, offsets, spec, starts=kept)
    np.testing.assert_array_equal(kept, expected.transpose(1, 0, 2).reshape(flat.size, num_blocks))


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_words_equal_big_integers(x, y):
    assert int(high_product(np.uint64(x), np.uint64(y))) == x * y >> 64
    assert int(mix(np.uint64(x))) == naive.mix(x)


def test_integer_types_are_all_unsigned():
    """A signed or float intermediate would be right for small ids and wrong for large ones."""
    block_starts(np.array([[1]]), RobeSpec(100, 4, 8, 1, sign=True))
    for function in (mix, row_key, block_start, sign_word):
        for signature in function.nopython_signatures:
            assert str(signature.return_type) in ("uint64", "Vector(uint64, 8)"), (
                function,
                signature,
            )


@pytest.mark.parametrize("sign", [False, True])
def test_starts_do_not_depend_on_sign_or_on_the_number_of_tables(sign):
    narrow = RobeSpec(10_000, 4, 8, 2, seed=7)
    wide = RobeSpec(10_000, 4, 16, 5, seed=7, sign=sign)
    ids = np.arange(50).reshape(10, 5)
    np.testing.assert_array_equal(
        block_starts(np.ascontiguousarray(ids[:, :2]), narrow), block_starts(ids, wide)[:, :2, :2]
    )


def distinct_starts(spec, ids):
    """Distinct first starts of ids of one table."""
    return np.unique(block_starts(ids.reshape(-1, 1), spec)[:, 0, 0]).size


@pytest.mark.parametrize("stride", [1, 2, 7, 64, 1000, 65536, 2**32])
def test_regular_ids_are_spread_like_chance(stride):
    """No seed may put contiguous or strided ids on few starts.

    n balls in m boxes leave m (1 - exp(-n/m)) boxes filled, with a variance below that of
    independent boxes, m p (1 - p); six such deviations are never seen in 200 draws.
    """
    n, m = 3952, 3883
    filled = m * (1 - np.exp(-n / m))
    deviation = np.sqrt(m * np.exp(-n / m) * (1 - np.exp(-n / m)))
    ids = np.arange(n, dtype=np.uint64) * np.uint64(stride)
    for seed in range(200):
        spec = RobeSpec(m, 16, 16, 1, seed=seed)
        assert abs(distinct_starts(spec, ids) - filled) < 6 * deviation


@pytest.mark.parametrize("pair", [(0, 1), (5, 5 + 2**32), (123456789, 987654321), (0, 2**63)])
def test_multiply_shift_is_2_universal(pair):
    """Over the seeds two ids collide in a block with probability 1/m (at most 1/m + 2**-32).

    64 blocks of 4,000 seeds at m = 1,000: 256 collisions expected, with standard deviation 16.
    """
    m, seeds, blocks = 1000, 4000, 64
    ids = np.array(pair, dtype=np.uint64).reshape(2, 1)
    collisions = 0
    for seed in range(seeds):
        first, second = block_starts(ids, RobeSpec(m, 1, blocks, 1, seed=seed))[:, 0]
        collisions += int((first == second).sum())
    expected = seeds * blocks / m
    assert abs(collisions - expected) < 5 * np.sqrt(expected)


def test_rows_that_collide_in_one_block_do_not_collide_in_the_others():
    """Coefficients are independent per block; the published formula is additive in the block."""
    m, ids = 500, np.arange(2000, dtype=np.uint64).reshape(-1, 1)
    both = {}
    for name in ("multiply-shift", "paper"):
        starts = block_starts(ids, RobeSpec(m, 4, 8, 1, hash=name))[:, 0]
        first = starts[:, 0] == starts[:, 0, None]
        pairs = first & np.triu(np.ones_like(first), 1)
        second = starts[:, 1] == starts[:, 1, None]
        both[name] = (second & pairs).sum() / pairs.sum()
    assert both["multiply-shift"] < 5 / m
    assert both["paper"] > 50 / m  # all of them, but for sums that pass the prime


def test_tables_have_their_own_coefficients():
    spec = RobeSpec(10_000, 8, 8, 2)
    ids = np.repeat(np.arange(1000), 2).reshape(-1, 2)
    starts = block_starts(ids, spec)[:, :, 0]
    assert (starts[:, 0] == starts[:, 1]).mean() < 0.01


@pytest.mark.parametrize("alignment", [1, 4, 16, 30])
@pytest.mark.parametrize("hash_name", ["multiply-shift", "paper"])
@pytest.mark.parametrize("size", [640, 641, 655])
def test_aligned_starts_are_multiples_and_every_element_is_read(alignment, hash_name, size):
    spec = RobeSpec(size, 32, 30, 1, hash=hash_name, alignment=alignment)
    # Scattered, since the published formula does put contiguous ids on few starts.
    indices = np.random.default_rng(0).integers(0, 2**31, (20_000, 1))
    assert np.unique(block_starts(indices, spec)).tolist() == list(range(0, size, alignment))
    assert lookup_backward(np.ones((20_000, 1, 30), np.float32), indices, spec).all()


def test_random_words_are_those_of_the_published_generator():
    """Philox4x64-10's known answer for a counter and a key of ones (Salmon et al., SC 2011).

    Saved arrays depend on these words; NumPy counts up before it draws.
    """
    ones = 2**64 - 1
    generator = np.random.Philox(
        counter=np.array([ones - 1, ones, ones, ones], dtype=np.uint64),
        key=np.array([ones, ones], dtype=np.uint64),
    )
    assert [f"{int(word):016x}" for word in generator.random_raw(4)] == [
        "87b092c3013fe90b",
        "438c3c67be8d0224",
        "9cc7d7c69cd777b6",
        "a09caebf594f0ba0",
    ]
