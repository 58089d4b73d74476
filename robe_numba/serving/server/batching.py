"""Micro-batches: requests that are in flight together are scored together, by a thread.

While the thread scores, requests gather; once it is free it takes them all, in their order, up to
the most rows. Where it is idle, a batch begins as soon as every request that has reached the server
is whole, and at the latest when the first has waited for the delay. So a lone request does not
wait, and under load batches are as large as they can be.
"""

import asyncio
import threading
from collections import deque
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from robe_numba.dlrm.bags import MultiHot
from robe_numba.serving.lists import MOST_IDS
from robe_numba.serving.scorer import Scorer
from robe_numba.serving.server.metrics import ModelCounters
from robe_numba.serving.server.refusals import RefusedError


class Arrivals:
    """How many requests of a process have reached it but are not whole yet."""

    def __init__(self) -> None:
        self.count = 0


class _Job(NamedTuple):
    scorer: Scorer  # that the arrays were checked for; it also scores them
    dense: np.ndarray
    ids: np.ndarray
    multi_hot: MultiHot | None
    answer: "asyncio.Future[np.ndarray]"

    @property
    def listed(self) -> int:
        """Ids of its lists."""
        return 0 if self.multi_hot is None else len(self.multi_hot[0])


class Batcher:
    """Scores the requests of one model; its methods are for the thread of the event loop.

    Parameters
    ----------
    name : str
        Of the model, for the thread.
    max_batch : int
        Most rows of a batch; a request of more is a batch of its own.
    max_delay : float
        Seconds that a request waits at most for others while nothing is being scored.
    max_queue : int
        Most requests that wait.
    arrivals : Arrivals
        Requests that may still join a batch.
    counters : ModelCounters
        Where batches and the queue are counted.
    """

    def __init__(
        self,
        name: str,
        max_batch: int,
        max_delay: float,
        max_queue: int,
        arrivals: Arrivals,
        counters: ModelCounters,
    ):
        self._loop = asyncio.get_running_loop()
        self._max_batch, self._max_delay, self._max_queue = max_batch, max_delay, max_queue
        self._arrivals, self._counters = arrivals, counters
        self._waiting: deque[_Job] = deque()
        self._ready = threading.Condition(threading.Lock())
        self._idle, self._closed = False, False  # guarded by `_ready`
        self._beginning = False  # whether the idle thread is about to be woken
        self._latest: asyncio.TimerHandle | None = None  # when it will be at the latest
        self._thread = threading.Thread(target=self._run, name=f"scoring {name}", daemon=True)
        self._thread.start()

    def submit(
        self,
        scorer: Scorer,
        dense: np.ndarray,
        ids: np.ndarray,
        multi_hot: MultiHot | None = None,
    ) -> "asyncio.Future[np.ndarray]":
        """Queue rows for `scorer`, whose checks they pass.

        Returns
        -------
        Future of ndarray, (rows,) float32

        Raises
        ------
        RefusedError
            Status 503: the queue is full.
        """
        if len(self._waiting) >= self._max_queue:
            raise RefusedError(
                503,
                f"{len(self._waiting)} requests are waiting already (--queue); try again later",
                (b"retry-after", b"1"),
            )
        answer = self._loop.create_future()
        with self._ready:
            self._waiting.append(_Job(scorer, dense, ids, multi_hot, answer))
            self._counters.queue(len(self._waiting))
            idle = self._idle
        if idle and not self._beginning:
            if self._arrivals.count == 0 or len(self._waiting) >= self._max_batch:
                self._beginning = True
                self._loop.call_soon(self._begin)  # after all that has been received already
            elif self._latest is None:
                self._latest = self._loop.call_later(self._max_delay, self._begin)
        return answer

    def _begin(self) -> None:
        """Wake the thread."""
        if self._latest is not None:
            self._latest.cancel()
        self._beginning, self._latest = False, None
        with self._ready:
            self._ready.notify()

    def close(self) -> None:
        """End the thread after what it is scoring."""
        with self._ready:
            self._closed = True
            self._ready.notify()
        self._thread.join()

    def _run(self) -> None:
        while self._score_next():
            pass  # and keep nothing of the batch, such as a scorer that was replaced

    def _score_next(self) -> bool:
        """Wait for a batch and score it; False once closed."""
        jobs = self._take()
        if not jobs:
            return False
        try:
            scores = jobs[0].scorer(*_joined(jobs))
            # Counted first, so that whoever has an answer finds it counted.
            self._counters.batch(len(scores))
            deliver: Any = partial(_deliver, jobs, scores)
        except Exception as error:  # a bug, or no memory: the requests fail, the thread lives
            deliver = partial(_fail, jobs, error)
        try:
            self._loop.call_soon_threadsafe(deliver)
        except RuntimeError:  # the loop is closed
            return False
        return True

    def _take(self) -> list[_Job]:
        """The next batch; empty once closed."""
        with self._ready:
            while not self._waiting and not self._closed:
                self._idle = True
                self._ready.wait()
            self._idle = False
            if self._closed:
                return []
            jobs = [self._waiting.popleft()]
            rows, listed = len(jobs[0].ids), jobs[0].listed
            while self._waiting and self._waiting[0].scorer is jobs[0].scorer:
                rows += len(self._waiting[0].ids)
                listed += self._waiting[0].listed
                # A scorer cuts at this many ids of lists, so more would only take memory.
                if rows > self._max_batch or listed > MOST_IDS:
                    break
                jobs.append(self._waiting.popleft())
            self._counters.queue(len(self._waiting))
            return jobs


def _joined(jobs: list[_Job]) -> tuple[Any, ...]:
    """The arguments that score all jobs, which have lists or all have none."""
    dense, ids, multi_hot = jobs[0][1:4]
    if len(jobs) > 1:
        dense = np.concatenate([job.dense for job in jobs])
        ids = np.concatenate([job.ids for job in jobs])
    if multi_hot is None:
        return dense, ids
    if len(jobs) > 1:
        values, lengths, weights = zip(*(job.multi_hot or () for job in jobs), strict=True)
        joined = None if weights[0] is None else np.concatenate(weights)
        multi_hot = np.concatenate(values), np.concatenate(lengths), joined
    return dense, ids, multi_hot


def _deliver(jobs: list[_Job], scores: np.ndarray) -> None:
    start = 0
    for job in jobs:
        stop = start + len(job.ids)
        if not job.answer.done():  # it may have been cancelled
            job.answer.set_result(scores[start:stop])
        start = stop


def _fail(jobs: list[_Job], error: Exception) -> None:
    for job in jobs:
        if not job.answer.done():
            job.answer.set_exception(error)
