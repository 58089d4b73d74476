"""Batches copied to a GPU have the right rows, in whatever order its streams do their work."""

import random
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

import numpy as np
import pytest

from robe_numba.kernels.gpu.arrays import array_library
from robe_numba.kernels.gpu.context import DeviceContext
from robe_numba.ops.gpu import feeding
from tests.gpu.conftest import SIMULATED, to_cpu


class Rows(NamedTuple):
    labels: np.ndarray | None
    values: np.ndarray


def batches_of(sizes, labelled=True, width=3):
    generator = np.random.default_rng(0)
    for size in sizes:
        labels = generator.integers(0, 2, size).astype(np.float32) if labelled else None
        yield Rows(labels, generator.normal(size=(size, width)))


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("sizes", [[], [4], [4, 4, 4, 4, 1], [2, 5, 1, 7, 7, 7]])
def test_every_batch_arrives(sizes, labelled):
    expected = batches_of(sizes, labelled)
    for batch in feeding.feed(batches_of(sizes, labelled)):
        wanted = next(expected)
        np.testing.assert_array_equal(to_cpu(batch.values), wanted.values)
        if labelled:
            np.testing.assert_array_equal(to_cpu(batch.labels), wanted.labels)
        else:
            assert batch.labels is None
    assert next(expected, None) is None


def test_no_features_are_fed_too(monkeypatch):
    """CUDA has no pinned memory of no bytes."""

    def refusing(shape, dtype):
        assert np.prod(shape) > 0
        return np.empty(shape, dtype)

    monkeypatch.setattr(feeding.cuda, "pinned_array", refusing)
    fed = list(feeding.feed(batches_of([4, 4], width=0)))
    assert [batch.values.shape for batch in fed] == [(4, 0)] * 2


ROWS = Rows(np.zeros(4, np.float32), np.zeros((4, 3)))


@pytest.mark.parametrize(
    ("batch", "error", "message"),
    [
        (tuple(ROWS), TypeError, "must be named tuples, got tuple"),
        (ROWS._replace(labels=None), ValueError, r"arrays for \['values'\], the first for"),
        (Rows(None, None), ValueError, "at least one"),
        (ROWS._replace(values=np.zeros((4, 2))), ValueError, r"values has shape \(4, 2\)"),
        (ROWS._replace(values=np.zeros((3, 3))), ValueError, r"values has shape \(3, 3\)"),
        (ROWS._replace(values=np.zeros((4, 3), np.float32)), TypeError, "values has dtype float32"),
        (ROWS._replace(values=np.zeros((3, 4)).T), ValueError, "values is not C-contiguous"),
    ],
)
def test_batches_unlike_the_first_are_refused(batch, error, message):
    fed = feeding.feed([ROWS, ROWS, batch])
    next(fed)
    with pytest.raises(error, match=message):
        next(fed)


def test_an_error_of_the_source_is_passed_on():
    def failing():
        yield from batches_of([2, 2, 2])
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        list(feeding.feed(failing()))


class Scheduler:
    """Streams whose work is done in a random order that their events allow, as late as possible."""

    def __init__(self, seed):
        self._random, self.streams = random.Random(seed), []

    def advance(self):
        """Do one piece of work; False if there is none."""
        ready = [stream for stream in self.streams if stream.queue and stream.queue[0][0]()]
        if not ready:
            assert not any(stream.queue for stream in self.streams), "deadlock"
            return False
        self._random.choice(ready).queue.pop(0)[1]()
        return True

    def until(self, done):
        while not done() and self.advance():
            pass


class Stream:
    """A queue of work: pairs of a condition to wait for, and a function to call."""

    def __init__(self, scheduler):
        self.queue, self._scheduler = [], scheduler
        scheduler.streams.append(self)

    def add(self, work, ready=lambda: True):
        self.queue.append((ready, work))

    def synchronize(self):
        self._scheduler.until(lambda: not self.queue)


class Event:
    def __init__(self, scheduler):
        self._scheduler, self._recorded, self._done = scheduler, 0, 0

    def record(self, stream):
        self._recorded += 1

        def reach(number=self._recorded):
            self._done = number

        stream.add(reach)

    def wait(self, stream):
        stream.add(lambda: None, lambda number=self._recorded: self._done >= number)

    def synchronize(self):
        number = self._recorded
        self._scheduler.until(lambda: self._done >= number)


@pytest.fixture(params=range(20))
def streams(monkeypatch, request):
    """A scheduler that replaces the streams of `feeding`; its first stream is the current one."""
    if not SIMULATED:
        pytest.skip("a real GPU has streams of its own")
    scheduler = Scheduler(request.param)
    current = Stream(scheduler)

    class Cuda:
        pinned_array = staticmethod(np.empty)
        event = staticmethod(lambda: Event(scheduler))

    class Seen:
        """Copies when its stream gets to it, from what the host's pages hold then."""

        def __init__(self, target):
            self._target = target

        def copy_to_device(self, source, stream):
            stream.add(lambda: self._target.__setitem__(..., source))

    @contextmanager
    def stream_of(array):
        yield DeviceContext(array_library(), current, 0)

    monkeypatch.setattr(feeding, "cuda", Cuda)
    monkeypatch.setattr(feeding, "side_stream", lambda: nullcontext(Stream(scheduler)))
    monkeypatch.setattr(feeding, "numba_view", Seen)
    monkeypatch.setattr(feeding, "stream_of", stream_of)
    return scheduler


def test_copies_and_work_wait_for_each_other(streams):
    current = streams.streams[0]
    sizes, seen = [4] * 7 + [2], []
    for batch in feeding.feed(batches_of(sizes)):
        current.add(lambda batch=batch: seen.append(batch.values.copy()))
    streams.until(lambda: False)
    for found, wanted in zip(seen, batches_of(sizes), strict=True):
        np.testing.assert_array_equal(found, wanted.values)


def test_no_copy_outlives_the_feed(streams):
    fed = feeding.feed(batches_of([4, 4, 4]))
    next(fed)
    fed.close()
    assert not any(stream.queue for stream in streams.streams[1:])
