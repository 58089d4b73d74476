"""Collective operations of a group of processes."""

import os
import threading

import numba
import numpy as np
import pytest
from mpi4py import MPI

from data_tools.batch import Batch, Lists, Rows
from data_tools.loader.peers import exchange_rows
from data_tools.rows import take
from robe_numba.metrics import Ranking, auc
from robe_numba.parallel.distributed_auc import distributed_ranking
from robe_numba.parallel.mpi_group import MPIGroup
from robe_numba.training import computing


def test_ranks_are_those_of_the_launcher(group):
    assert (group.rank, group.size) == (MPI.COMM_WORLD.rank, MPI.COMM_WORLD.size)
    assert group.all_gather(group.is_root) == [rank == 0 for rank in range(group.size)]
    assert group.all_gather(group.local_rank) == list(range(group.size))  # all are on one machine


def test_everyone_hears_what_each_gave(group):
    given = {"rank": group.rank, "text": "x" * (10**5 * group.rank)}
    expected = [{"rank": r, "text": "x" * (10**5 * r)} for r in range(group.size)]
    assert group.all_gather(given) == expected
    for owner in range(group.size):
        assert group.broadcast(given, owner) == expected[owner]
    assert group.broadcast(given if group.is_root else None) == expected[0]


def test_the_highest_number(group):
    assert group.all_max(group.rank) == group.size - 1
    assert group.all_max(-group.rank) == 0
    assert group.all_max(-(2**62) - group.rank) == -(2**62)


@pytest.mark.parametrize("shape", [(), (0,), (7,), (3, 5)])
@pytest.mark.parametrize("dtype", ["f4", "f8", "u8", "i4"])
def test_all_get_the_arrays_of_rank_0(group, shape, dtype):
    mine = np.full(shape, group.rank + 1, dtype)
    kept = mine.reshape(-1)  # the same memory
    group.broadcast_arrays([mine, mine * 0])
    np.testing.assert_array_equal(kept, 1)


def batch_between(sender, receiver, labelled, counts):
    """Rows that one rank sends to another, different for each pair."""
    rows, name = counts(sender, receiver), 100 * sender + receiver
    numbers = np.arange(rows, dtype=np.float32) + 1000 * name
    dense = np.tile(numbers[:, None], (1, 3))
    indices = (dense[:, :2] + 0.5).astype(np.uint64) << np.uint64(40)
    return Batch(numbers if labelled else None, dense, indices)


def assert_exchanged(group, exchange, labelled, counts):
    parts = [batch_between(group.rank, r, labelled, counts) for r in range(group.size)]
    received = exchange(parts)
    assert len(received) == group.size
    for sender, found in enumerate(received):
        expected = batch_between(sender, group.rank, labelled, counts)
        assert isinstance(found, Batch)
        for name, array in expected._asdict().items():
            other = getattr(found, name)
            assert (other is None) == (array is None)
            if array is not None:
                assert (other.dtype, other.shape) == (array.dtype, array.shape)
                np.testing.assert_array_equal(other, array)


COUNTS = {
    "uneven": lambda sender, receiver: 5 * sender + receiver,
    "to the last alone": lambda sender, receiver: 3 * (receiver > 1 or sender > receiver),
    "of the first alone": lambda sender, receiver: 4 * (sender == 0),
    "nothing": lambda sender, receiver: 0,
}


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("counts", COUNTS)
def test_each_gets_the_rows_that_are_its_own(group, labelled, counts):
    assert_exchanged(group, group.all_to_all, labelled, COUNTS[counts])


def lists_between(sender, receiver, weighted):
    """Lists of ids that one rank sends to another, some empty, different for each pair."""
    lengths = [
        (sender + 2 * receiver + row) % 4 for row in range(COUNTS["uneven"](sender, receiver))
    ]
    ids = np.arange(sum(lengths), dtype=np.uint64) + np.uint64(1000 * sender + 100 * receiver)
    weights = ids.astype(np.float32) / 8 if weighted else None
    return Lists(ids << np.uint64(40), np.cumsum([0, *lengths]), weights)


def joined(lists):
    """Lists one after the other, as one rank's part of what it sends to all."""
    ends = np.cumsum([0, *(len(each.values) for each in lists)])
    weights = None if lists[0].weights is None else np.concatenate([o.weights for o in lists])
    return Lists(
        np.concatenate([each.values for each in lists]),
        np.concatenate([[0], *(o.offsets[1:] + e for o, e in zip(lists, ends, strict=False))]),
        weights,
    )


@pytest.mark.parametrize("labelled", [True, False])
def test_each_gets_the_lists_that_are_its_own(group, labelled):
    """The parts are views of one array, so that their offsets begin above 0."""
    everyone, ends = range(group.size), np.cumsum([5 * group.rank + r for r in range(group.size)])
    rows = [batch_between(group.rank, r, labelled, COUNTS["uneven"]) for r in everyone]
    together = Rows(
        np.concatenate([part.labels for part in rows]) if labelled else None,
        np.concatenate([part.dense for part in rows]),
        np.concatenate([part.indices for part in rows]),
        tuple(
            joined([lists_between(group.rank, r, weighted) for r in everyone])
            for weighted in (False, True)
        ),
    )
    parts = [take(together, slice(b, e)) for b, e in zip([0, *ends[:-1]], ends, strict=True)]
    for sender, found in enumerate(exchange_rows(group.peers, parts)):
        expected = batch_between(sender, group.rank, labelled, COUNTS["uneven"])
        np.testing.assert_array_equal(found.dense, expected.dense)
        assert (found.labels is None) == (not labelled)
        for weighted, lists in zip((False, True), found.lists, strict=True):
            own = lists_between(sender, group.rank, weighted)
            np.testing.assert_array_equal(lists.values, own.values)
            np.testing.assert_array_equal(lists.offsets, own.offsets)
            assert (lists.weights is None) == (not weighted)
            if weighted:
                np.testing.assert_array_equal(lists.weights, own.weights)


def test_rows_are_exchanged_while_others_speak(group):
    """By a thread that reads ahead, as in training."""
    assert (group.peers.rank, group.peers.size) == (group.rank, group.size)
    errors = []

    def exchange():
        try:
            for _ in range(30):
                assert_exchanged(group, group.peers.exchange, True, COUNTS["uneven"])
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=exchange)
    thread.start()
    for number in range(60):
        assert group.all_max(group.rank + number) == group.size - 1 + number
        assert group.all_gather(number) == [number] * group.size
        assert_exchanged(group, group.all_to_all, False, COUNTS["uneven"])
    thread.join()
    assert errors == []


def test_rank_0_does_it_for_all(group):
    calls = []
    assert group.at_root(lambda: calls.append(group.rank) or "done") == "done"
    assert calls == [0] * group.is_root


def test_what_fails_at_rank_0_fails_for_all(group):
    def fail():
        error = FileExistsError(17, "it is there", f"run of rank {group.rank}")
        error.add_note("choose another")
        raise error

    with pytest.raises(FileExistsError, match="run of rank 0") as caught:
        group.at_root(fail)
    assert caught.value.__notes__ == ["choose another"]
    assert caught.value.errno == 17
    assert group.at_root(lambda: group.size) == group.size, "the ranks are still in step"


def test_reasons_of_failures_come_by_rank(group):
    expected = [(f"of {rank}", True) for rank in range(group.size)]
    assert group.failures(f"of {group.rank}", 30) == expected


SCORES = {
    "all different": lambda generator, rows: generator.normal(size=rows),
    "many ties": lambda generator, rows: generator.integers(0, 5, rows) / 4,
    "all the same": lambda generator, rows: np.full(rows, 0.5),
    "in order": lambda generator, rows: np.arange(rows) / 1000,
}
ROWS = {
    "even": lambda rank: 700,
    "uneven": lambda rank: 1 + 900 * rank,
    "few": lambda rank: int(rank < 2),
}


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("scores", SCORES)
def test_auc_of_all_rows_is_exact(group, scores, rows):
    parts = []
    for rank in range(group.size):
        generator = np.random.default_rng(rank)
        count = ROWS[rows](rank)
        labels = generator.permutation((np.arange(count) + rank) % 3 == 0).astype(np.float32)
        parts.append((labels, SCORES[scores](generator, count).astype(np.float32)))
    found = distributed_ranking(group, *parts[group.rank])
    everything = [np.concatenate(column) for column in zip(*parts, strict=True)]
    assert found == Ranking.of(*everything)
    assert found.auc == auc(*everything)


def test_no_rows_have_no_auc(group):
    nothing = np.empty(0, np.float32)
    assert distributed_ranking(group, nothing, nothing) == Ranking(0, 0, 0)


AFFINITIES = {
    "all may run anywhere": (lambda rank: set(range(8)), lambda size: 8 // size),
    "each has cores of its own": (lambda rank: {2 * rank, 2 * rank + 1}, lambda size: 2),
    "there are fewer cores": (lambda rank: {0}, lambda size: 1),
    "the cores are those of all": (
        lambda rank: {0, 1, 2, 3 + rank},
        lambda size: (3 + size) // size,
    ),
}


@pytest.mark.parametrize("cores", AFFINITIES)
def test_threads_are_a_fair_share_of_the_cores(group, monkeypatch, cores):
    mine, expected = AFFINITIES[cores]
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: mine(group.rank), raising=False)
    assert MPIGroup().threads == expected(group.size)


@pytest.mark.parametrize(("threads", "expected"), [(None, 1), (2, 2)])
def test_threads_that_are_asked_for_are_taken(group, monkeypatch, threads, expected):
    if numba.config.NUMBA_NUM_THREADS < 2:
        pytest.skip("Numba was started for one thread")
    monkeypatch.setattr(group, "threads", 1)
    numba.set_num_threads(2)  # its own share is smaller
    before = numba.get_num_threads()
    with computing("cpu", threads, group):
        assert numba.get_num_threads() == expected
    assert numba.get_num_threads() == before
