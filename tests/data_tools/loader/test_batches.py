"""Mini-batches of a split: each row once, in an order that depends on what it should alone."""

import signal
import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_tools.batch import Lists, Rows
from data_tools.loader import shuffle, split
from data_tools.loader.blocks import Blocks
from data_tools.loader.split import Split
from tests.conftest import readers_running
from tests.support.forking import forks, holds_in_a_child

pytestmark = pytest.mark.usefixtures("small_windows", "no_thread_stays")


def list_of(row, feature):
    """The ids of a row's list, and their weights where the feature has them."""
    length = [row % 4, row * 7 % 11 // 2 * (row % 3 > 0)][feature]
    ids = [(row * 16 + feature + number) % 2**32 for number in range(length)]
    return ids, [number / 4 + row % 2 for number in range(length)]


def lists_of(rows, feature, dtype):
    """One feature of consecutive rows, as in a file: its offsets need not begin at 0."""
    lists = [list_of(int(row), feature) for row in rows]
    before = 3 * (len(rows) % 2)
    values = [9] * before + [i for ids, _ in lists for i in ids] + [8] * 2
    weights = [9.0] * before + [w for _, weights in lists for w in weights] + [8.0] * 2
    offsets = before + np.cumsum([0, *(len(ids) for ids, _ in lists)])
    weights = np.array(weights, np.float32) if feature else None
    return Lists(np.array(values, dtype), offsets.astype(np.int32), weights)


class MemoryReader:
    """A shard of blocks in memory; row r of the dataset has values that tell r.

    Parameters
    ----------
    sizes : rows of each block.
    first : row of the dataset that is the shard's first.
    labelled, num_categorical, dtype, lists : what the rows have; `lists` says how many features.

    Attributes
    ----------
    reads : blocks that were read, in the order of asking.
    fails : a block whose reading fails.
    """

    def __init__(self, sizes, first=0, labelled=True, num_categorical=3, dtype="u4", lists=0):
        self.block_rows = np.array(sizes, np.int64)
        self.reads, self.fails, self.blocks = [], None, []
        for start, size in zip(first + np.cumsum(sizes) - sizes, sizes, strict=True):
            row = np.arange(start, start + size)
            ids = np.stack([row, row // 10, 2**32 - 1 - row], axis=1)[:, :num_categorical]
            block = Rows(
                (row % 2).astype("f4") if labelled else None,
                np.stack([row, -row], axis=1).astype("f4"),
                np.ascontiguousarray(ids, dtype),
                tuple(lists_of(row, feature, dtype) for feature in range(lists)),
            )
            for array in (a for group in (block[:3], *block.lists) for a in group):
                if array is not None:
                    array.flags.writeable = False
            self.blocks.append(block)

    def read(self, block):
        self.reads.append(block)
        if block == self.fails:
            raise OSError(f"block {block} cannot be read")
        return self.blocks[block]


def make(shards, rows=None, **options):
    """A split of shards, each given by the sizes of its blocks; by default of all rows."""
    ends = np.cumsum([0, *map(sum, shards)])
    readers = [MemoryReader(s, e, **options) for s, e in zip(shards, ends[:-1], strict=True)]
    empty = MemoryReader([0], **options).blocks[0]
    blocks = Blocks(readers)
    if isinstance(rows, np.ndarray):
        labels = np.zeros((int(ends[-1]) + 3) // 4 * 4, np.uint8)
        labels[rows] = 1
        packed = (labels.reshape(-1, 4) << [0, 2, 4, 6]).sum(axis=1).astype(np.uint8)
        blocks, rows = Blocks(readers, packed, 1), None
    return Split(blocks, range(blocks.num_rows) if rows is None else rows, empty)


def row_numbers(batches):
    """Rows of the batches in order; every column must tell the same row."""
    batches = list(batches)
    for batch in batches:
        row = batch.indices[:, 0].astype(np.int64)
        np.testing.assert_array_equal(batch.labels, row % 2)
        np.testing.assert_array_equal(batch.dense, np.stack([row, -row], axis=1))
        np.testing.assert_array_equal(batch.indices[:, 1], row // 10)
        np.testing.assert_array_equal(batch.indices[:, 2], 2**32 - 1 - row)
        assert batch.labels.dtype == batch.dense.dtype == np.float32
        assert batch.indices.dtype == np.uint32
        assert all(array.flags.c_contiguous for array in batch if array is not None)
        check_lists(batch, row.tolist())
    return np.concatenate([np.empty(0, np.int64), *(b.indices[:, 0] for b in batches)]).tolist()


def check_lists(batch, rows):
    """The lists of a batch, one after the other, against those that the rows must have."""
    if batch.multi_hot is None:
        assert batch.values is batch.offsets is batch.weights is None
        return
    values, offsets, weights = batch.multi_hot
    features = (len(offsets) - 1) // max(len(rows), 1)
    expected, own = [0], ([], [])
    for feature in range(features):
        for row in rows:
            ids, weights_of_ids = list_of(row, feature)
            own[0].extend(ids)
            own[1].extend(weights_of_ids if feature else [1.0] * len(ids))
            expected.append(len(own[0]))
    assert values.tolist() == own[0]
    assert offsets.tolist() == expected
    assert (values.dtype, offsets.dtype) == (batch.indices.dtype, np.int64)
    assert not rows or (weights is None) == (features == 1)
    if weights is not None:
        assert weights.dtype == np.float32
        assert weights.tolist() == own[1]


# Three shards, the middle one without rows, and blocks from one row to more than a window.
UNEVEN = [[7, 1, 30, 5], [], [9, 9, 9, 2]]
EVEN = [[5] * 12, [5] * 8]  # windows of 4 blocks

batch_sizes = st.integers(1, 90)
orders = st.one_of(st.none(), st.integers(0, 2**70))


@st.composite
def splits(draw):
    """A split of some rows, and the numbers of these rows."""
    shards = draw(st.lists(st.lists(st.integers(1, 40), max_size=5), max_size=4))
    total = sum(map(sum, shards))
    rows = range(*sorted((draw(st.integers(0, total)), draw(st.integers(0, total)))))
    lists = draw(st.integers(0, 2))
    if draw(st.booleans()):
        chosen = draw(st.sets(st.sampled_from(rows))) if rows else ()
        return make(shards, np.array(sorted(chosen), np.uint32), lists=lists), sorted(chosen)
    return make(shards, rows, lists=lists), list(rows)


@given(splits(), batch_sizes, orders, st.booleans())
def test_every_row_comes_once(drawn, size, seed, drop_last):
    part, rows = drawn
    assert part.num_rows == len(rows)
    batches = list(part.batches(size, seed, drop_last=drop_last))
    count = len(rows) - len(rows) % size if drop_last else len(rows)
    lengths = [min(size, count - start) for start in range(0, count, size)]
    assert [len(batch.dense) for batch in batches] == lengths
    everything = row_numbers(part.batches(size, seed))
    assert sorted(everything) == rows
    assert row_numbers(batches) == everything[:count]
    if seed is None:
        assert everything == rows


@given(splits(), batch_sizes, orders, st.integers(0, 3))
def test_neither_threads_nor_batch_size_change_the_order(drawn, size, seed, epoch):
    part, _ = drawn
    expected = row_numbers(part.batches(1, seed, epoch, threads=0))
    for threads in (0, 1, 2, 5):
        assert row_numbers(part.batches(size, seed, epoch, threads=threads)) == expected


@given(splits(), st.integers(5, 90), orders, st.booleans(), st.sampled_from([0, 1, 3]))
def test_starting_later_is_skipping(drawn, size, seed, drop_last, threads):
    part, _ = drawn
    batches = [row_numbers([b]) for b in part.batches(size, seed, drop_last=drop_last)]
    for first in range(len(batches) + 3):
        later = part.batches(size, seed, 0, drop_last, first, threads)
        assert [row_numbers([batch]) for batch in later] == batches[first:]


@pytest.mark.parametrize(("seed", "unit"), [(None, 5), (3, 20)])
def test_what_comes_before_the_first_batch_is_not_read(seed, unit):
    part = make([EVEN[0]])
    (reader,) = part._blocks._readers

    def reads(first):
        reader.reads.clear()
        list(part.batches(10, seed, first=first))
        return reader.reads.copy()

    everything = reads(0)
    assert sorted(everything) == list(range(12))
    for first in range(8):  # six batches
        skipped = first * 10 // unit * unit if first < 6 else 60
        assert reads(first) == everything[skipped // 5 :]


@given(st.integers(0, 2**70), st.integers(0, 9))
def test_each_epoch_and_seed_has_its_own_order(seed, epoch):
    part = make(UNEVEN)
    orders = [
        row_numbers(part.batches(8, *key))
        for key in ((seed, epoch), (seed, epoch + 1), (seed + 1, epoch), (seed + 2**32, epoch))
    ]
    assert len(set(map(tuple, orders))) == 4


def test_the_order_depends_on_rows_and_blocks_alone():
    whole = row_numbers(make(UNEVEN).batches(8, 1))
    blocks = [size for shard in UNEVEN for size in shard]
    assert row_numbers(make([blocks]).batches(8, 1)) == whole
    assert row_numbers(make([blocks[1:], blocks[:1]]).batches(8, 1)) != whole


def orders_of(shards, epochs):
    """The rows in the order of each of so many epochs, (epochs, rows)."""
    part = make(shards)
    return np.array([row_numbers(part.batches(100, 7, epoch)) for epoch in range(epochs)])


def test_a_shuffle_takes_every_row_everywhere():
    orders = orders_of(EVEN, 400)
    places = np.argsort(orders, axis=1)
    # A uniform place has a standard deviation of 28.9, in its window of 5.8: a mean of 400 of
    # them 1.44 and 0.29. Six of these for each of 100 rows.
    assert np.abs(places.mean(axis=0) - 49.5).max() < 8.7
    assert np.abs((places % 20).mean(axis=0) - 9.5).max() < 1.75
    assert len({tuple(order) for order in orders.tolist()}) == 400


def test_a_window_has_whole_blocks_of_all_shards():
    blocks = np.sort(orders_of(EVEN, 400).reshape(400, 5, 20) // 5)
    assert (blocks == np.repeat(blocks[..., ::5], 5, axis=2)).all()
    # A block of the first shard and one of the second meet in one window of 3 / 19: 63 of 400
    # times, with a standard deviation of 7.3.
    meetings = ((blocks == 3).any(axis=2) & (blocks == 15).any(axis=2)).sum()
    assert abs(meetings - 63) < 44


def test_each_window_has_its_own_permutation():
    blocks = orders_of(EVEN, 1).reshape(5, 20) // 5
    # Which places have rows of one block: the same in all windows, if the permutation were.
    together = {(window[:, None] == window).tobytes() for window in blocks}
    assert len(together) == 5


def test_rows_of_one_window_are_permuted_freely():
    orders = orders_of([[5, 5], [5, 5]], 200)
    # Five of 20 rows are of 4 (1 - C(15, 5) / C(20, 5)) = 3.23 blocks in the mean, with a standard
    # deviation below 1; blocks that stay together would give 1.
    different = [len(set(order[:5] // 5)) for order in orders]
    assert abs(np.mean(different) - 3.23) < 0.3


def test_windows_are_of_nearly_equal_size():
    rows = shuffle.Shuffle(np.full(21, 5), 0, 0).window_rows  # 105 rows would be 20, ..., 5
    assert sorted(rows.tolist()) == [15, 15, 15, 20, 20, 20]
    assert shuffle.Shuffle(np.array([50, 50]), 0, 0).window_rows.tolist() == [50, 50]


def test_batches_within_a_block_are_views():
    part = make([[20, 3], [20]])
    batches = list(part.batches(8))
    blocks = [block for reader in part._blocks._readers for block in reader.blocks]
    views = [any(np.shares_memory(b.dense, block.dense) for block in blocks) for b in batches]
    assert views == [True, True, False, True, True, True]  # 0-15, 16-23, 24-31, 32-39, 40-42
    with pytest.raises(ValueError, match="read-only"):
        batches[0].dense[0, 0] = 1


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_an_error_comes_in_its_place(threads):
    part = make([[10] * 8])
    part._blocks._readers[0].fails = 3
    batches = part.batches(5, threads=threads)
    assert row_numbers(next(batches) for _ in range(6)) == list(range(30))
    with pytest.raises(OSError, match="block 3 cannot be read"):
        next(batches)
    assert list(batches) == []
    with pytest.raises(OSError, match="block 3"):
        list(part.batches(5, 1, threads=threads))
    with pytest.raises(OSError, match="block 3"):
        part.labels()


@pytest.mark.parametrize("seed", [None, 1])
@pytest.mark.parametrize("leave", [lambda batches: batches.close(), lambda batches: None])
def test_an_iterator_that_is_left_stops_its_threads(seed, leave):
    batches = make(EVEN).batches(2, seed, threads=3)
    next(batches)
    assert readers_running()
    leave(batches)
    del batches
    assert readers_running() == []


def test_an_iterator_may_be_forgotten_by_its_own_thread():
    part = make([[10] * 8])
    held = [part.batches(10)]
    may_forget = threading.Event()
    (reader,) = part._blocks._readers
    read = reader.read

    def forgetting(block):
        if block == 2:
            may_forget.wait(10)
            held.clear()
        return read(block)

    reader.read = forgetting
    next(held[0])
    next(held[0])  # block 2 is being read
    may_forget.set()
    for thread in readers_running():
        thread.join(10)
    assert held == []
    assert reader.reads[-1] == 2


@pytest.mark.parametrize("threads", [1, 2])
def test_a_bounded_number_of_windows_is_read_ahead(threads):
    part = make([[20] * 10])
    (reader,) = part._blocks._readers
    batches = part.batches(4, 1, threads=threads)
    for window in range(3):
        for _ in range(5):
            next(batches)
        deadline = time.monotonic() + 10
        while len(reader.reads) < window + 1 + threads and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.02)  # for more than that, if there were no limit
        assert len(reader.reads) == window + 1 + threads
    batches.close()


@forks
@pytest.mark.parametrize("lists", [0, 2])
def test_an_iterator_goes_on_in_a_forked_process(lists):
    """Which has none of its threads, and what they had read perhaps in part."""
    rows, part = 80, make([[10] * 8], lists=lists)
    batches = part.batches(5, threads=2)
    first = row_numbers(next(batches) for _ in range(3))
    assert holds_in_a_child(lambda: first + row_numbers(batches) == list(range(rows)))
    assert first + row_numbers(batches) == list(range(rows))


def test_ctrl_c_while_a_block_is_awaited():
    part = make([[10] * 4])
    (reader,) = part._blocks._readers
    read, interrupted = reader.read, threading.Event()

    def slow(block):
        if block == 1:
            signal.raise_signal(signal.SIGINT)  # handled by the main thread, which waits for us
            interrupted.wait(0.2)
        return read(block)

    reader.read = slow
    batches = part.batches(10)
    with pytest.raises(KeyboardInterrupt):
        list(batches)
    assert list(batches) == []


@pytest.mark.parametrize("dtype", ["u4", "u8"])
@pytest.mark.parametrize("num_categorical", [0, 3])
@pytest.mark.parametrize("labelled", [True, False])
def test_rows_of_every_kind(dtype, num_categorical, labelled):
    part = make(UNEVEN, labelled=labelled, num_categorical=num_categorical, dtype=dtype)
    for seed in (None, 4):
        batches = list(part.batches(10, seed))
        rows = np.concatenate([batch.dense[:, 0] for batch in batches]).astype(np.int64)
        assert sorted(rows) == list(range(72))
        ids = np.concatenate([batch.indices for batch in batches])
        expected = np.stack([rows, rows // 10, 2**32 - 1 - rows], axis=1)[:, :num_categorical]
        np.testing.assert_array_equal(ids, expected)
        assert ids.dtype == dtype
        assert all((batch.labels is not None) == labelled for batch in batches)
    if not labelled:
        with pytest.raises(ValueError, match="no labels"):
            part.labels()


@given(splits())
def test_labels(drawn):
    part, rows = drawn
    labels = part.labels()
    np.testing.assert_array_equal(labels, np.array(rows, int) % 2)
    assert labels.dtype == np.float32


@pytest.fixture(params=[1, 10, 1 << 20])
def unsorted_ids(request, monkeypatch):
    monkeypatch.setattr(split, "UNSORTED_IDS", request.param)


@pytest.mark.usefixtures("unsorted_ids")
@pytest.mark.parametrize("rows", [range(72), range(11, 34), range(5, 5), np.array([3, 8, 44, 71])])
def test_unique_ids(rows):
    part = make(UNEVEN, rows)
    for column, ids in enumerate(
        (set(rows), {r // 10 for r in rows}, {2**32 - 1 - r for r in rows})
    ):
        found = part.unique_ids(column)
        np.testing.assert_array_equal(found, sorted(ids))
        assert found.dtype == np.uint32
    for column in (-1, 3):
        with pytest.raises(IndexError, match="3 categorical columns"):
            part.unique_ids(column)


@pytest.mark.usefixtures("unsorted_ids")
@pytest.mark.parametrize("rows", [range(72), range(11, 34), range(5, 5), np.array([3, 8, 44, 71])])
def test_unique_ids_of_lists(rows):
    part = make(UNEVEN, rows, lists=2)
    for feature in (0, 1):
        ids = {i for row in rows for i in list_of(int(row), feature)[0]}
        found = part.unique_ids(3 + feature)
        np.testing.assert_array_equal(found, sorted(ids))
        assert found.dtype == np.uint32
    with pytest.raises(IndexError, match=r"column is 5, .* 3 categorical .* 2 multi-hot"):
        part.unique_ids(5)


@pytest.mark.parametrize("shards", [[], [[]]])
@pytest.mark.parametrize("rows", [range(0), np.empty(0, np.uint32)])
def test_no_rows(shards, rows):
    part = make(shards, rows)
    assert part.num_rows == 0
    assert list(part.batches(4)) == list(part.batches(4, 1)) == list(part.batches(4, first=2)) == []
    assert part.labels().shape == (0,)
    assert part.unique_ids(2).dtype == np.uint32


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"shuffle_seed": -1}, "shuffle_seed is -1"),
        ({"epoch": -1}, "epoch is -1"),
        ({"first": -1}, "first is -1"),
        ({"threads": -1}, "threads is -1"),
    ],
)
def test_wrong_arguments_are_refused_at_the_call(options, words):
    with pytest.raises(ValueError, match=words):
        make(UNEVEN).batches(**{"batch_size": 1, **options})
