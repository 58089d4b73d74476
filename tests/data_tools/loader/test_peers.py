"""Mini-batches shared by ranks: together those of a single process, however many there are."""

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_tools import Dataset, ingest
from data_tools.loader import shuffle as shuffling
from data_tools.loader.peers import SentRows, share_edges
from data_tools.rows import batch_of
from data_tools.synthetic.generator import Generator
from robe_numba._share_of import share_of
from tests.conftest import readers_running
from tests.data_tools.loader.test_batches import UNEVEN, make, row_numbers, splits

pytestmark = pytest.mark.usefixtures("small_windows", "no_thread_stays")

SECONDS = 20  # after which ranks that wait for each other fail


class ThreadPeers:
    """Ranks that are threads of this process.

    Attributes
    ----------
    sent : for each exchange, how many rows this rank sent to each.
    """

    def __init__(self, rank, size, barrier, slots):
        self.rank, self.size = rank, size
        self._barrier, self._slots = barrier, slots
        self.sent = []

    def exchange(self, parts):
        assert len(parts) == self.size
        assert threading.current_thread() in readers_running()
        for array in (array for part in parts for array in part if array is not None):
            assert array.flags.c_contiguous
            array.flags.writeable = False  # a transport may be reading it
        if isinstance(parts[0], SentRows):
            self.sent.append([len(part.dense) for part in parts])
        self._slots[self.rank] = parts
        self._barrier.wait()
        received = [sent[self.rank] for sent in self._slots]
        self._barrier.wait()
        return received


def on_ranks(size, work):
    """What `work(peers)` returns on each rank; an error of one is raised after all have ended."""
    barrier, slots = threading.Barrier(size, timeout=SECONDS), [None] * size
    results, errors = [None] * size, []

    def run(rank):
        try:
            results[rank] = work(ThreadPeers(rank, size, barrier, slots))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * SECONDS)
        assert not thread.is_alive(), "ranks wait for each other"
    if errors:
        raise errors[0]
    return results


def assert_same(shared, whole):
    """Batches of each rank against those of a single process: the same bytes, and even shares."""
    assert {len(batches) for batches in shared} == {len(whole)}
    for number, expected in enumerate(whole):
        shares = [batches[number] for batches in shared]
        rows = len(expected.dense)
        assert [len(s.dense) for s in shares] == [
            len(share_of(rows, rank, len(shares))) for rank in range(len(shares))
        ]
        for column in range(3):
            arrays = [share[column] for share in shares]
            if expected[column] is None:
                assert arrays == [None] * len(shares)
                continue
            assert {array.dtype for array in arrays} == {expected[column].dtype}
            assert all(array.flags.c_contiguous for array in arrays)
            joined = np.concatenate(arrays)
            assert joined.shape == expected[column].shape
            assert joined.tobytes() == expected[column].tobytes()
        assert_same_lists(shares, expected)


def assert_same_lists(shares, expected):
    """The lists of the shares, feature by feature, against those of the whole batch."""
    if expected.offsets is None:
        assert all(share.offsets is None for share in shares)
        return
    assert [share.offsets.dtype for share in shares] == [expected.offsets.dtype] * len(shares)
    features = (len(expected.offsets) - 1) // max(len(expected.dense), 1)
    for name in ("values", "weights"):
        if getattr(expected, name) is None:
            assert all(getattr(share, name) is None for share in shares)
            continue
        joined = [
            getattr(share, name)[share.offsets[begin] : share.offsets[begin + len(share.dense)]]
            for feature in range(features)
            for share in shares
            for begin in [feature * len(share.dense)]
        ]
        assert np.concatenate(joined).tobytes() == getattr(expected, name).tobytes()
    lengths = [np.diff(share.offsets).reshape(features, len(share.dense)) for share in shares]
    np.testing.assert_array_equal(
        np.concatenate(lengths, axis=1).ravel(), np.diff(expected.offsets)
    )


def rows_of(parts):
    """Numbers of some rows that are not yet batches."""
    return row_numbers(map(batch_of, parts))


sizes = st.sampled_from([1, 2, 3, 5])


@given(st.integers(0, 10**12), st.integers(1, 70))
def test_shares_are_even_and_follow_one_another(count, size):
    shares = [share_of(count, rank, size) for rank in range(size)]
    assert [share.stop for share in shares] == [*(share.start for share in shares[1:]), count]
    assert shares[0].start == 0
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    edges = [*(share.start for share in shares), count]
    np.testing.assert_array_equal(share_edges(count, size), edges)
    np.testing.assert_array_equal(
        share_edges(np.array([0, count]), size), [[0] * len(edges), edges]
    )


@given(splits(), sizes, st.integers(5, 90), st.integers(0, 2**70), st.integers(0, 3), st.data())
def test_together_the_batches_are_those_of_one_process(drawn, size, rows, seed, epoch, data):
    part, _ = drawn
    count = -(-part.num_rows // rows)
    options = (rows, seed, epoch, data.draw(st.booleans()), data.draw(st.integers(0, count + 1)))
    shared = on_ranks(size, lambda peers: list(part.batches(*options, peers=peers)))
    assert_same(shared, list(part.batches(*options)))


@pytest.mark.parametrize("window_rows", [1, 2, 7, 1000])
@pytest.mark.parametrize("batch_size", [5, 6, 11, 1000])
def test_windows_smaller_and_larger_than_batches(monkeypatch, window_rows, batch_size):
    monkeypatch.setattr(shuffling, "WINDOW_ROWS", window_rows)
    part = make([[1, 2, 1, 9, 1, 1], [3, 1, 1, 6]], np.delete(np.arange(26, dtype=np.uint32), 4))
    for size in (2, 3, 5):
        for first in (0, 1, 4):
            options = {"shuffle_seed": 3, "first": first}
            shared = on_ranks(
                size,
                lambda peers, options=options: list(
                    part.batches(batch_size, peers=peers, **options)
                ),
            )
            assert_same(shared, list(part.batches(batch_size, **options)))


def test_a_huge_batch_size():
    part = make(UNEVEN)
    shared = on_ranks(3, lambda peers: list(part.batches(2**80, 1, peers=peers)))
    assert_same(shared, list(part.batches(2**80, 1)))


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize(("num_categorical", "dtype"), [(0, "u4"), (3, "u8")])
@pytest.mark.parametrize("lists", [0, 1, 2])
def test_rows_of_every_kind(labelled, num_categorical, dtype, lists):
    kinds = {"labelled": labelled, "num_categorical": num_categorical, "dtype": dtype}
    part = make(UNEVEN, lists=lists, **kinds)
    shared = on_ranks(3, lambda peers: list(part.batches(10, 4, peers=peers)))
    assert_same(shared, list(part.batches(10, 4)))


@pytest.mark.parametrize("file_format", ["arrow", "parquet"])
@pytest.mark.parametrize("by", ["order", "random"])
def test_batches_of_a_dataset(tmp_path, file_format, by):
    Generator(seed=5, scale=0.001).write(tmp_path / "clicks.tsv", 900)
    options = {"file_format": file_format, "shard_bytes": 3000}  # shards of some 13 rows
    ingest(tmp_path / "clicks.tsv", tmp_path / "data", **options)
    part = Dataset(tmp_path / "data").split("train", by=by)
    assert len(part._numbers) > 40
    shared = on_ranks(2, lambda peers: list(part.batches(64, 2, 1, peers=peers)))
    assert_same(shared, list(part.batches(64, 2, 1)))


def test_batches_of_one_window_are_views():
    part = make([[20] * 4])
    for batches in on_ranks(2, lambda peers: list(part.batches(10, 1, peers=peers))):
        assert batches[0].dense.base is batches[1].dense.base is not batches[2].dense.base


@given(splits(), st.integers(0, 9), st.data())
def test_a_stretch_of_a_window_has_these_rows_alone(drawn, epoch, data):
    part, rows = drawn
    shuffle = shuffling.Shuffle(part._counts, 1, epoch)
    found = []
    for window, count in enumerate(shuffle.window_rows.tolist()):
        whole = rows_of(part._stretch(shuffle, window, range(count)))
        cut = data.draw(st.integers(0, count))
        stretches = [part._stretch(shuffle, window, r) for r in (range(cut), range(cut, count))]
        assert [rows_of(stretch) for stretch in stretches] == [whole[:cut], whole[cut:]]
        found += whole
    assert sorted(found) == rows


def recorded(shards, size, rows=None, batch_size=8, **options):
    """For each rank: rows sent to each in each exchange, and blocks read in the order of asking."""

    def work(peers):
        part = make(shards, rows)
        list(part.batches(batch_size, 1, peers=peers, **options))
        return np.array(peers.sent), [(r, b) for r in part._blocks._readers for b in r.reads]

    return on_ranks(size, work)


@given(
    st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=5), min_size=1, max_size=3),
    st.sampled_from([2, 3, 5]),
    st.booleans(),
)
def test_each_rank_reads_as_many_rows_of_a_window(shards, size, every_third):
    total = sum(map(sum, shards))
    rows = np.arange(0, total, 3, dtype=np.uint32) if every_third else range(total)
    part = make(shards, rows)
    windows = shuffling.Shuffle(part._counts, 1, 0)
    ranks = recorded(shards, size, rows)
    sent = np.stack([sent for sent, _ in ranks])  # (from, window, to)
    for window, count in enumerate(windows.window_rows.tolist()):
        assert [int(n) for n in sent[:, window].sum(axis=1)] == [
            len(share_of(count, rank, size)) for rank in range(size)
        ]
    assert sent.sum() == len(rows)
    # A block is read by one rank, and by others only that meet within it.
    reads = [len(blocks) for _, blocks in ranks]
    meetings = (size - 1) * len(windows.windows)
    assert len(part._numbers) <= sum(reads) <= len(part._numbers) + meetings


def test_a_rank_reads_only_blocks_that_its_stretch_touches():
    # 8 windows of 4 blocks of 5 rows: a half is 2 blocks, a third touches 2 or 3.
    for size, limit in ((2, 16), (3, 8 * 3)):
        for _, blocks in recorded([[5] * 32], size):
            assert len(blocks) <= limit
    reads = [blocks for _, blocks in recorded([[5] * 32], 2)]
    assert [len(blocks) for blocks in reads] == [16, 16]
    numbers = [{block for _, block in blocks} for blocks in reads]
    assert numbers[0] | numbers[1] == set(range(32))


def test_rows_of_no_batch_are_not_sent():
    sent = [sent.sum() for sent, _ in recorded([[5] * 13], 2, batch_size=10)]
    assert sum(sent) == 65
    dropped = [sent.sum() for sent, _ in recorded([[5] * 13], 2, batch_size=10, drop_last=True)]
    assert sum(dropped) == 60
    later = [sent.sum() for sent, _ in recorded([[5] * 13], 2, batch_size=10, first=5)]
    assert sum(later) == 15


def test_another_epoch_is_divided_otherwise():
    part = make(UNEVEN)
    epochs = [
        on_ranks(2, lambda peers, epoch=epoch: row_numbers(part.batches(8, 1, epoch, peers=peers)))
        for epoch in range(3)
    ]
    for epoch in epochs:
        assert sorted(epoch[0] + epoch[1]) == list(range(72))
    assert len({frozenset(epoch[0]) for epoch in epochs}) == 3


@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=12),
    st.sampled_from([2, 3, 5]),
    st.integers(0, 4),
    st.sampled_from([3, 20]),
    st.integers(0, 2),
    st.data(),
)
def test_all_ranks_leave_off_alike(blocks, size, more, window_rows, first, data):
    """The windows that were exchanged depend on how many batches were taken, on every rank."""
    batch_size = size + more  # shares of a row or two, in windows of which a rank may have none
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shuffling, "WINDOW_ROWS", window_rows)
        part = make([blocks])
        batches = max(-(-part.num_rows // batch_size) - first, 0)
        taken = data.draw(st.integers(0, batches))

        def work(peers):
            counts = []
            for epoch in range(2):  # the next one begins where the last was left
                iterator = part.batches(batch_size, 1, epoch, first=first, peers=peers)
                rows = [next(iterator) for _ in range(taken)]
                iterator.close()
                counts.append(len(peers.sent))
            return counts, rows

        ranks = on_ranks(size, work)
        assert_same(
            [rows for _, rows in ranks], list(part.batches(batch_size, 1, 1, first=first))[:taken]
        )
        # All windows up to that of the last row, and the one that was read ahead.
        exchanges = [0]
        for epoch in range(2):
            ends = np.cumsum(shuffling.Shuffle(part._counts, 1, epoch).window_rows)
            begin, end = (min(n * batch_size, part.num_rows) for n in (first, first + taken))
            start = np.searchsorted(ends, begin, side="right")
            last = np.searchsorted(ends, end) if taken else start - 2
            exchanges.append(exchanges[-1] + min(last + 2, len(ends)) - start)
        assert [counts for counts, _ in ranks] == [exchanges[1:]] * size


def test_an_iterator_that_is_forgotten_stops_its_thread():
    part = make(UNEVEN)

    def work(peers):
        iterator = part.batches(6, 1, peers=peers)
        next(iterator)
        del iterator

    on_ranks(5, work)
    assert readers_running() == []


@pytest.mark.parametrize("lists", [0, 2])
def test_an_error_of_one_rank_ends_all(lists):
    shards = [[5] * 16]  # windows of 4 blocks and of 2 batches
    last_block = int(shuffling.Shuffle(np.full(16, 5), 1, 0).windows[2][-1])

    def work(peers):
        part = make(shards, lists=lists)
        if peers.rank == 1:
            part._blocks._readers[0].fails = last_block
        batches = part.batches(10, 1, peers=peers)
        for _ in range(4):
            next(batches)
        with pytest.raises((OSError, RuntimeError)) as caught:
            next(batches)
        assert list(batches) == []
        return str(caught.value)

    others, own = on_ranks(2, work)
    assert own == f"block {last_block} cannot be read"
    assert "rank 1 sent 0 rows of window 2, but should have sent" in others


def test_one_rank_exchanges_nothing():
    part = make(UNEVEN)

    def work(peers):
        batches = list(part.batches(10, 1, peers=peers))
        assert peers.sent == []
        return batches

    assert_same(on_ranks(1, work), list(part.batches(10, 1)))


class Alone:
    rank, size = 1, 4

    def exchange(self, parts):
        raise AssertionError("nothing may be read")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shuffle_seed": None}, "shuffle_seed is None.*give a seed"),
        ({"threads": 0}, "threads is 0.*use threads=1"),
        ({"threads": 2}, "threads is 2.*use threads=1"),
        ({"batch_size": 3}, "batch_size is 3.*use batch_size >= 4"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_wrong_arguments_are_refused_at_the_call(options, words):
    with pytest.raises(ValueError, match=words):
        make(UNEVEN).batches(**{"batch_size": 4, "shuffle_seed": 1, "peers": Alone(), **options})


@pytest.mark.parametrize("shards", [[], [[]]])
def test_no_rows(shards):
    part = make(shards)
    assert on_ranks(3, lambda peers: list(part.batches(4, 1, peers=peers))) == [[], [], []]
    assert part.part(1, 3).num_rows == 0


@given(splits(), st.integers(1, 7), st.integers(1, 30))
def test_parts_follow_one_another(drawn, size, batch_size):
    whole, rows = drawn
    parts = [whole.part(rank, size) for rank in range(size)]
    assert [part.num_rows for part in parts] == [
        len(share_of(len(rows), rank, size)) for rank in range(size)
    ]
    assert row_numbers(b for part in parts for b in part.batches(batch_size)) == rows
    np.testing.assert_array_equal(np.concatenate([part.labels() for part in parts]), whole.labels())
    if parts[0].num_rows:
        mixed = row_numbers(parts[0].batches(batch_size, 1))
        assert sorted(mixed) == rows[: parts[0].num_rows]


@pytest.mark.parametrize(("rank", "size"), [(-1, 2), (2, 2), (0, 0)])
def test_there_is_no_such_part(rank, size):
    with pytest.raises(ValueError, match=f"rank is {rank} of {size} parts"):
        make(UNEVEN).part(rank, size)
