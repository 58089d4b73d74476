"""Micro-batches: whose answer is whose, how large batches are, and when they begin."""

import asyncio
import random
import threading
import weakref
from array import array

import numpy as np
import pytest

from tests.support.needs import SERVE, need

need(*SERVE)

from robe_numba.serving.server.batching import Arrivals, Batcher
from robe_numba.serving.server.metrics import Counters
from robe_numba.serving.server.refusals import RefusedError


class Echo:
    """Scores a row by its first id, and notes the sizes of its calls."""

    def __init__(self, plus=0):
        self.calls, self.plus = [], plus
        self.go, self.begun = threading.Event(), threading.Event()
        self.go.set()

    def __call__(self, dense, ids):
        self.begun.set()
        assert self.go.wait(30)
        self.calls.append(len(ids))
        assert dense.shape == (len(ids), 1)
        return ids[:, 0].astype(np.float32) + self.plus


def job(*ids):
    return np.zeros((len(ids), 1), np.float32), np.array(ids, np.int64)[:, None]


def batching(test, max_batch=8, max_delay=0.001, max_queue=10**6):
    """Run an asynchronous test with a batcher, its arrivals and its counters."""

    async def main():
        arrivals, counters = Arrivals(), Counters(["m"])
        batcher = Batcher("m", max_batch, max_delay, max_queue, arrivals, counters.of("m"))
        try:
            await asyncio.wait_for(test(batcher, arrivals, counters), 60)
        finally:
            await asyncio.to_thread(batcher.close)

    asyncio.run(main())


def test_every_request_gets_its_own_answer():
    scorers = [Echo(), Echo(plus=10**6)]

    async def client(batcher, number):
        await asyncio.sleep(random.Random(number).random() * 0.05)
        size = 1 + number % 11
        ids = [number * 16 + k for k in range(size)]
        scorer = scorers[number % 7 == 0]
        scores = await batcher.submit(scorer, *job(*ids))
        assert scores.tolist() == [x + scorer.plus for x in ids]

    async def test(batcher, arrivals, counters):
        await asyncio.gather(*(client(batcher, number) for number in range(5000)))
        sizes = scorers[0].calls + scorers[1].calls
        assert sum(sizes) == sum(1 + number % 11 for number in range(5000))
        assert max(sizes) > 11  # some were scored together
        total = counters.total("m")
        assert total["rows"] == sum(sizes)
        assert sum(total["batches"]) == len(sizes)
        assert total["queue"] == 0

    batching(test, max_batch=64)


def test_requests_gather_while_the_thread_is_busy():
    async def test(batcher, arrivals, counters):
        echo = Echo()
        echo.go.clear()
        first = batcher.submit(echo, *job(0))
        await asyncio.to_thread(echo.begun.wait, 30)
        others = [batcher.submit(echo, *job(*range(size))) for size in (3, 5, 1, 20, 8)]
        assert counters.total("m")["queue"] == 5
        echo.go.set()
        await asyncio.gather(first, *others)
        assert echo.calls == [1, 8, 1, 20, 8]  # never more than 8, but for a request of 20

    batching(test)


@pytest.mark.parametrize("weighted", [False, True])
def test_lists_are_joined_up_to_as_many_ids_as_are_scored_at_once(monkeypatch, weighted):
    monkeypatch.setattr("robe_numba.serving.server.batching.MOST_IDS", 10)
    calls = []

    def scorer(dense, ids, multi_hot):
        values, lengths, weights = multi_hot
        calls.append(lengths.sum(axis=1).tolist())
        assert len(values) == lengths.sum()
        assert values.dtype == lengths.dtype == np.int64
        assert (weights is None) != weighted
        assert weights is None or weights.tolist() == values.tolist()
        ends = np.cumsum(lengths.sum(axis=1))
        parts = np.split(values, ends[:-1])
        return np.array([part.sum() for part in parts], np.float32)

    def lists(number, *counts):
        values = np.full(sum(counts), number)
        lengths = np.array([[count, 0] for count in counts])
        return values, lengths, values.astype(np.float32) if weighted else None

    async def test(batcher, arrivals, counters):
        await asyncio.sleep(0.05)  # until the thread is idle
        counts = [(2, 0), (3,), (6,), (0, 0, 0), (11,), (1,), (10,)]
        answers = await asyncio.gather(
            *(
                batcher.submit(scorer, *job(*each), lists(number, *each))
                for number, each in enumerate(counts, 1)
            )
        )
        for number, (answer, each) in enumerate(zip(answers, counts, strict=True), 1):
            assert answer.tolist() == [number * count for count in each]
        assert calls == [[2, 0, 3], [6, 0, 0, 0], [11], [1], [10]]

    batching(test)


def test_what_was_received_together_is_one_batch():
    async def test(batcher, arrivals, counters):
        echo = Echo()
        await asyncio.sleep(0.05)  # until the thread is idle
        await asyncio.gather(*(batcher.submit(echo, *job(k)) for k in range(8)))
        assert echo.calls == [8]

    batching(test)


def test_a_lone_request_does_not_wait_and_others_are_waited_for():
    async def test(batcher, arrivals, counters):
        echo, loop = Echo(), asyncio.get_running_loop()
        await asyncio.sleep(0.05)
        start = loop.time()
        await batcher.submit(echo, *job(1))
        assert loop.time() - start < 5  # the delay is 20
        arrivals.count = 1  # another one is being read
        await asyncio.sleep(0.05)
        waiting = batcher.submit(echo, *job(2))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        arrivals.count = 0
        other = batcher.submit(echo, *job(3))
        await asyncio.gather(waiting, other)
        assert echo.calls == [1, 2]

    batching(test, max_delay=20)


def test_nobody_is_waited_for_longer_than_the_delay():
    async def test(batcher, arrivals, counters):
        echo = Echo()
        await asyncio.sleep(0.05)
        arrivals.count = 1  # which never becomes whole
        assert (await batcher.submit(echo, *job(1))).tolist() == [1]

    batching(test, max_delay=0.02)


def test_a_full_queue_refuses_at_once():
    async def test(batcher, arrivals, counters):
        echo = Echo()
        echo.go.clear()
        first = batcher.submit(echo, *job(1))
        await asyncio.to_thread(echo.begun.wait, 30)
        waiting = [batcher.submit(echo, *job(k)) for k in range(3)]
        with pytest.raises(RefusedError, match="3 requests are waiting") as caught:
            batcher.submit(echo, *job(9))
        assert caught.value.status == 503
        assert (b"retry-after", b"1") in caught.value.headers
        echo.go.set()
        assert [x.tolist() for x in await asyncio.gather(first, *waiting)] == [[1], [0], [1], [2]]

    batching(test, max_queue=3)


def test_an_error_is_that_of_its_batch_alone():
    def broken(dense, ids):
        raise MemoryError("no more")

    async def test(batcher, arrivals, counters):
        results = await asyncio.gather(
            batcher.submit(broken, *job(1)),
            batcher.submit(broken, *job(2)),
            batcher.submit(Echo(), *job(3)),
            return_exceptions=True,
        )
        assert [type(result) for result in results[:2]] == [MemoryError] * 2
        assert results[2].tolist() == [3]

    batching(test)


def test_an_idle_thread_keeps_no_scorer_that_was_replaced():
    async def test(batcher, arrivals, counters):
        echo = Echo()
        alive = weakref.ref(echo)
        assert (await batcher.submit(echo, *job(1))).tolist() == [1]
        del echo
        for _ in range(1000):  # until the thread is idle
            if alive() is None:
                return
            await asyncio.sleep(0.01)
        pytest.fail("the scorer is kept")

    batching(test)


def test_a_cancelled_request_disturbs_no_other():
    async def test(batcher, arrivals, counters):
        echo = Echo()
        waiting = [batcher.submit(echo, *job(k)) for k in range(3)]
        waiting[1].cancel()
        assert (await waiting[0]).tolist() == [0]
        assert (await waiting[2]).tolist() == [2]

    batching(test)


def test_wider_dense_values_of_one_request_are_kept():
    def scorer(dense, ids):
        return dense[:, 0]

    async def test(batcher, arrivals, counters):
        fine = 1 + 2**-40  # not a float32
        wide = batcher.submit(scorer, np.array([[fine]]), np.zeros((1, 1), np.int64))
        narrow = batcher.submit(scorer, *job(0))
        assert (await wide)[0] == fine
        assert (await narrow)[0] == 0

    batching(test)


def test_counts_of_processes_are_added():
    memory = array("d", bytes(8 * Counters.size_for(2, 2)))
    first, second = (Counters(["a", "b"], 2, process, memory) for process in range(2))
    first.of("a").batch(3)
    second.of("a").batch(4)
    second.of("b").request(503, 0.0003)
    second.of("b").reload(False)
    for counters in (first, second):
        assert counters.total("a")["rows"] == 7
        assert counters.total("a")["batches"][2] == 2  # 3 and 4 are at most 4
        assert counters.total("b")["codes"] == {503: 1}
        assert counters.total("b")["seconds"][1] == 1  # at most 500 µs
        assert counters.total("b")["refused_reloads"] == 1
        assert counters.total("")["codes"] == {}
