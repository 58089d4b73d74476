"""Memory: what scratch is, what an update allocates, and that kernels stay within their arrays."""

import subprocess
import sys
import threading
import tracemalloc

import numpy as np
import pytest

import robe_numba as rn
from robe_numba import memory
from robe_numba.kernels.cpu.update import driver
from robe_numba.memory import aligned_empty, scratch
from tests.dlrm.test_model import batch_of, tiny_model


def address(array):
    return array.__array_interface__["data"][0]


@pytest.mark.parametrize("shape", [(0,), (1,), (3, 5), (0, 4), (1000,)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.uint64])
def test_arrays_begin_a_cache_line(shape, dtype):
    for array in (aligned_empty(shape, dtype), scratch("test", shape, dtype)):
        assert (array.shape, array.dtype) == (shape, dtype)
        assert array.flags.c_contiguous
        assert array.size == 0 or address(array) % 64 == 0


def in_new_thread(function):
    """What a function returns in a Python thread of its own."""
    found = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]  # missing where the function failed, which pytest then reports too


def test_scratch_is_kept_by_name_and_thread():
    kept = address(scratch("test one", (100,), np.uint64))
    assert address(scratch("test one", (5, 2), np.float32)) == kept
    other = scratch("test two", (100,), np.uint64)
    foreign = in_new_thread(lambda: scratch("test one", (100,), np.uint64))
    first = scratch("test one", (100,), np.uint64)
    assert address(first) == kept
    for one, two in ((first, other), (first, foreign), (other, foreign)):
        assert not np.may_share_memory(one, two)


@pytest.mark.parametrize("part", [lambda array: array, lambda array: array[3:5].view(np.int8)])
def test_scratch_is_the_callers_while_anything_refers_to_it(part):
    held = part(scratch("test held", (100,), np.uint64))
    following = scratch("test held", (100,), np.uint64)
    assert not np.may_share_memory(held, following)
    kept = address(following)
    del held, following
    assert address(scratch("test held", (100,), np.uint64)) == kept


ROWS, TABLES, DIM, BLOCK = 2048, 4, 32, 8
GRAD_BYTES = ROWS * TABLES * DIM * 4
START_BYTES = ROWS * TABLES * (DIM // BLOCK) * 8
SMALL = 20_000  # bytes of Python objects and small arrays


def peaks(adagrad, array_size):
    """Bytes that a first and a second update of a new Python thread allocate at most."""
    spec = rn.RobeSpec(array_size, BLOCK, DIM, TABLES)
    generator = np.random.default_rng(0)
    indices = generator.integers(0, 2**63, (ROWS, TABLES))
    grad_out = generator.standard_normal((ROWS, TABLES, DIM)).astype(np.float32)
    array, state = np.zeros((2, array_size), np.float32)

    def step():
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        if adagrad:
            rn.adagrad_update(array, state, grad_out, indices, spec)
        else:
            rn.sgd_update(array, grad_out, indices, spec)
        return tracemalloc.get_traced_memory()[1] - before

    step()  # compiles
    tracemalloc.start()
    try:
        return in_new_thread(lambda: (step(), step()))
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("adagrad", [False, True])
@pytest.mark.parametrize("sort", [False, True])
def test_an_update_allocates_little_and_nothing_the_second_time(
    adagrad, sort, set_workers, monkeypatch
):
    """The gradient has 1 MiB, the larger array 64 MiB and its state another 64.

    First: the starts, a quarter of the gradient here. Sorting: a word for each block and, where
    it touches two ranges, another; counts of 64-bit per range of 2**16 elements; for Adagrad the
    sums of one range per worker. Scanning: 512 pieces per worker, and for Adagrad sums of the
    array's size, if the output is as large.
    """
    workers = 2
    set_workers(workers)
    if sort:
        monkeypatch.setattr(driver, "MAX_SCANS", 0)
    found = []
    for array_size in (1 << 18, 1 << 21, 1 << 24):
        sums = 4 * workers * min(array_size // workers, 1 << driver.MAX_SHIFT)
        bound = START_BYTES + SMALL
        if sort or (adagrad and array_size > GRAD_BYTES // 4):
            bound += START_BYTES * 9 // 8 + 8 * workers * (array_size >> 14) + sums * adagrad
        else:
            bound += 3 * 8 * workers * (driver.SCAN_CAPACITY + 64) + 4 * array_size * adagrad
        first, second = peaks(adagrad, array_size)
        assert START_BYTES < first < bound < 2 * GRAD_BYTES
        assert second < SMALL
        found.append(first)
    if sort:  # a few ranges' counts
        assert found[2] - found[1] < SMALL


def test_a_model_finds_its_memory_again(monkeypatch):
    """Nothing refers to a step's memory once it is over."""
    model, batch = tiny_model("robe", optimizer="adagrad", threads=1), batch_of(1000)
    made = []

    def counted(*arguments):
        made.append(arguments)
        return aligned_empty(*arguments)

    def step():
        model.train_step(*batch, 0.1)
        model.logits(*batch[:2])

    def steps():
        step()
        assert made != []
        made.clear()
        for _ in range(3):
            step()
        return made

    monkeypatch.setattr(memory, "aligned_empty", counted)
    assert in_new_thread(steps) == []


def test_gradients_stay_as_they_are_while_they_are_held():
    model, batch = tiny_model("robe", threads=1), batch_of(600)
    first = model.backpropagate(*batch)
    expected = first.dense.copy(), first.embeddings.copy()
    model.backpropagate(*batch_of(600, seed=1))
    np.testing.assert_array_equal(first.dense, expected[0])
    np.testing.assert_array_equal(first.embeddings, expected[1])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="protects pages of memory")
def test_kernels_stay_within_their_arrays():
    """Every array of a call lies against a page that may not be touched, in turn at either end."""
    finished = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-m", "tests.support.guard_pages"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout == "done\n"
