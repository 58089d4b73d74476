"""How rows are divided into train, validation and test: which rows, once, in little memory."""

import tracemalloc
from collections.abc import MutableSequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_tools import Dataset
from data_tools.loader import random_split
from data_tools.loader.blocks import Blocks
from data_tools.loader.partitions import day_rows
from data_tools.loader.random_split import row_parts
from data_tools.loader.split import Split
from tests.data_tools.loader.test_dataset import dataset, row_numbers  # noqa: F401


def unpacked(labels, num_rows):
    return ((labels[:, None] >> [0, 2, 4, 6]) & 3).ravel()[:num_rows]


@pytest.fixture(params=[2, random_split.CHUNK_WORDS])
def chunk_words(request, monkeypatch):
    monkeypatch.setattr(random_split, "CHUNK_WORDS", request.param)


@pytest.mark.usefixtures("chunk_words")
@given(st.integers(0, 300), st.data(), st.integers(0, 2**70))
def test_a_random_split_is_that_of_a_shuffle_by_numpy(num_rows, data, seed):
    ends = sorted(data.draw(st.lists(st.integers(0, num_rows), min_size=3, max_size=3)))
    rows = np.arange(num_rows)
    np.random.default_rng((0, seed)).shuffle(rows)
    expected = np.full(num_rows, 3)
    for part, (begin, end) in enumerate(zip([0, *ends], ends, strict=False)):
        expected[rows[begin:end]] = part
    np.testing.assert_array_equal(unpacked(row_parts(num_rows, ends, seed), num_rows), expected)


class Swaps(MutableSequence):
    """Far too many rows for memory, of which a shuffle by NumPy swaps the last 80."""

    def __init__(self, num_rows):
        self.num_rows, self.swaps = num_rows, []

    def __len__(self):
        return self.num_rows

    def __getitem__(self, place):
        if len(self.swaps) == 160:
            raise StopIteration
        return None

    def __setitem__(self, place, row):
        self.swaps.append(place)

    __delitem__ = insert = None


@pytest.mark.parametrize("num_rows", [2**32 - 5, 2**32, 2**32 + 1, 2**32 + 40, 2**40 + 3])
def test_places_of_more_rows_than_32_bits_count(num_rows):
    rows = Swaps(num_rows)
    with pytest.raises(StopIteration):
        np.random.default_rng((0, 3)).shuffle(rows)
    places = np.zeros(1000, np.uint64)
    words = np.random.PCG64((0, 3)).random_raw(500)
    random_split._draw_places(words, np.uint64(num_rows - 1), np.uint64(1), places)
    assert rows.swaps[0::2] == list(range(num_rows - 1, num_rows - 81, -1))
    assert rows.swaps[1::2] == places[:80].tolist()


class UnreadShard:
    """Many rows, in blocks that are never read."""

    block_rows = np.full(2500, 8192)


def test_a_split_takes_no_memory_for_each_row():
    """Except two bits for a random one; a permutation would take 4 bytes at least."""
    rows = int(UnreadShard.block_rows.sum())  # 20 million
    row_parts(5, (1, 2, 5), 0)  # compiled once
    tracemalloc.start()
    Split(Blocks([UnreadShard()]), range(rows // 8), None).part(1, 3)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    labels = row_parts(rows, (rows // 2, rows // 4 * 3, rows), 1)
    blocks = Blocks([UnreadShard()], labels, 0)
    assert Split(blocks, range(blocks.num_rows), None).part(1, 3).num_rows == rows // 6
    assert labels.nbytes == rows // 4
    assert tracemalloc.get_traced_memory()[1] < rows // 4 + (5 << 20)
    tracemalloc.stop()


def test_a_split_is_made_once(dataset, monkeypatch):  # noqa: F811
    again, calls = Dataset(dataset.path), []
    made = random_split.row_parts
    monkeypatch.setattr(random_split, "row_parts", lambda *a: calls.append(a) or made(*a))
    for _ in range(3):
        splits = [again.split(name, by="random", seed=3) for name in ("train", "test")]
    assert again.split("test", by="random", seed=3) is splits[1]
    assert len(calls) == 1
    other = again.split("test", by="random", seed=4)
    assert row_numbers(other.batches(9)) != row_numbers(splits[1].batches(9))
    third = again.split("test", by="random", seed=3)
    assert row_numbers(third.batches(9)) == row_numbers(splits[1].batches(9))


PARTS = ("train", "test", "validation")


def test_days_of_criteo():
    terabyte = [195_841_983, *[180_000_000] * 22, 178_274_637]
    train, test, validation = (day_rows(terabyte, name) for name in PARTS)
    assert (len(test), len(validation)) == (89_137_319, 89_137_318)
    assert train == range(195_841_983 + 22 * 180_000_000)
    # 45,840,617 rows are four days of 6,548,660 and three of 6,548,659.
    train, test, validation = (day_rows([45_840_617], name) for name in PARTS)
    assert train == range(39_291_958)
    assert (len(test), len(validation)) == (3_274_330, 3_274_329)


@given(st.lists(st.integers(0, 60), max_size=4))
def test_days(rows_per_source):
    rows = np.arange(sum(rows_per_source))
    days = np.split(rows, np.cumsum(rows_per_source)[:-1])
    if len(rows_per_source) < 2:
        days = np.array_split(rows, 7)
    test, validation = np.array_split(days[-1], 2)
    expected = (np.concatenate(days[:-1]), test, validation)
    for name, wanted in zip(PARTS, expected, strict=True):
        np.testing.assert_array_equal(np.array(day_rows(rows_per_source, name), int), wanted)


def test_days_have_three_parts():
    with pytest.raises(ValueError, match="no part 'all'"):
        day_rows([5, 5], "all")
