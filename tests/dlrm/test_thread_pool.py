"""How a batch is cut, run on threads and added up."""

import threading

import numba
import numpy as np
import pytest
import threadpoolctl

from robe_numba.dlrm import thread_pool as workers
from robe_numba.dlrm.gradient_buffer import named_views, sum_rows
from robe_numba.dlrm.thread_pool import ThreadPool, micro_batches, single_threaded_blas
from tests.support.forking import forks, holds_in_a_child


@pytest.mark.parametrize(
    ("rows", "count"),
    [(0, 1), (1, 1), (130, 1), (256, 2), (300, 2), (1000, 4), (2048, 4), (3000, 5), (100_003, 8)],
)
def test_micro_batches_cover_the_batch_in_order(rows, count):
    parts = micro_batches(rows)
    assert len(parts) == count
    covered = [row for part in parts for row in range(part.start, part.stop)]
    assert covered == list(range(rows))
    lengths = [part.stop - part.start for part in parts]
    assert max(lengths) - min(lengths) <= 1


def test_parts_are_added_in_order():
    """Sizes that vectors do not divide; float32 sums that depend on the order."""
    shapes = {"a": (3, 1000), "b": (2501,)}
    generator = np.random.default_rng(0)
    parts, total = np.empty((3, 5501), np.float32), np.empty(5501, np.float32)
    values = {name: generator.normal(size=(3, *shape)) for name, shape in shapes.items()}
    for number, part in enumerate(parts):
        for name, array in named_views(part, shapes).items():
            array[...] = values[name][number]
    sum_rows(parts, total)
    for name, found in named_views(total, shapes).items():
        first, second, third = values[name].astype(np.float32)
        np.testing.assert_array_equal(found, first + second + third)


def test_workers_keep_the_order_and_raise():
    for threads in (1, 3):
        workers = ThreadPool(threads)
        assert workers.run(lambda part: part * part, 5) == [0, 1, 4, 9, 16]
        with pytest.raises(ZeroDivisionError):
            workers.run(lambda part: 1 // part, 2)


def test_tasks_run_kernels_on_their_own_thread_and_give_the_number_back():
    before = numba.get_num_threads()
    for threads in (1, 2):
        seen = ThreadPool(threads).run(lambda part: numba.get_num_threads(), 5)
        assert seen == [1] * 5
        assert numba.get_num_threads() == before


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="there is one thread")
def test_a_single_task_runs_kernels_on_no_more_threads_than_given():
    numba.set_num_threads(2)
    assert ThreadPool(1).run(lambda part: numba.get_num_threads(), 1) == [1]
    assert ThreadPool(2).run(lambda part: numba.get_num_threads(), 1) == [2]
    assert ThreadPool(5).run(lambda part: numba.get_num_threads(), 1) == [2]


def blas_threads():
    libraries = threadpoolctl.threadpool_info()
    return [lib["num_threads"] for lib in libraries if lib["user_api"] == "blas"]


def test_blas_threads_are_held_and_restored():
    before = blas_threads()
    with single_threaded_blas():
        with single_threaded_blas():
            assert set(blas_threads()) == {1}
        assert set(blas_threads()) == {1}
    assert blas_threads() == before


class Library:
    """A fake BLAS: changing its setting is interrupted by another user."""

    def __init__(self):
        self.threads, self.changed = 4, 0

    @property
    def num_threads(self):
        return self.threads

    def set_num_threads(self, threads):
        self.changed += 1
        if self.changed in (1, 4):
            with single_threaded_blas():
                assert self.threads == 1
        self.threads = threads


def test_blas_threads_are_restored_where_users_come_between(monkeypatch):
    library = Library()
    monkeypatch.setattr(workers, "_blas_libraries", lambda: [library, library])
    for _ in range(3):
        thread = threading.Thread(target=hold_blas, args=(library,), daemon=True)
        thread.start()
        thread.join(10)  # it would hang if a holder waited for its own lock
        assert not thread.is_alive()
        assert library.threads == 4


def hold_blas(library):
    with single_threaded_blas():
        assert library.threads == 1


@forks
def test_blas_threads_are_restored_in_a_process_forked_while_they_are_held():
    def restored():
        with single_threaded_blas():
            pass
        return blas_threads() == before

    before = blas_threads()
    entered, leave = threading.Event(), threading.Event()

    def hold():
        with single_threaded_blas():
            entered.set()
            leave.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    entered.wait()
    held = holds_in_a_child(restored)
    leave.set()
    thread.join()
    assert held


def test_a_task_may_run_tasks():
    """As a finalizer does; in all threads of the pool at once, so that none is free."""
    own, barrier = ThreadPool(2), threading.Barrier(2, timeout=10)

    def task(part):
        barrier.wait()
        return own.run(lambda inner: (part, inner), 2)

    found = []
    thread = threading.Thread(target=lambda: found.extend(own.run(task, 2)), daemon=True)
    thread.start()
    thread.join(20)
    assert found == [[(0, 0), (0, 1)], [(1, 0), (1, 1)]]
