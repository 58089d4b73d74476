"""Threads: the same bits from every function for any number of them, and no trouble with others."""

import multiprocessing
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import pytest
import threadpoolctl

import robe_numba as rn
from robe_numba.kernels.cpu import launch
from robe_numba.kernels.cpu.update import driver
from tests.dlrm.test_model import batch_of, tiny_model
from tests.support.forking import forks, holds_in_a_child

SPEC = rn.RobeSpec(3000, 8, 20, 3, sign=True)
ROWS = 500
MIXED = ("max", "mean", "sum")


def results():
    """The bytes that each public function gives for one batch."""
    generator = np.random.default_rng(0)
    array = generator.standard_normal(SPEC.array_size).astype(np.float32)
    ids = (generator.zipf(1.2, (ROWS, 3)) % 400).astype(np.int64)
    grad_out = generator.standard_normal((ROWS, 3, 20)).astype(np.float32)
    sizes = generator.integers(0, 6, 3 * ROWS)
    bag_ids = generator.integers(0, 400, sizes.sum())
    bags = (bag_ids, np.concatenate([[0], np.cumsum(sizes)]), SPEC)
    found = [rn.block_starts(ids, SPEC), rn.lookup(array, ids, SPEC)]
    quantized, dense = rn.quantize(array, 16), grad_out[:, 0].copy()
    found += [rn.lookup(quantized, ids, SPEC)]
    found += [rn.lookup_dot_interaction(quantized, ids, dense, SPEC)]
    found += [rn.lookup_backward(grad_out, ids, SPEC)]
    for mode in ("sum", "mean", "max", MIXED):
        found.append(rn.embedding_bag(array, *bags, mode))
        found.append(rn.embedding_bag_backward(grad_out, *bags, mode, array=array))
        found.append(rn.embedding_bag(quantized, *bags, mode))
    moved, state = array.copy(), np.zeros_like(array)
    rn.sgd_update(moved, grad_out, ids, SPEC)
    rn.adagrad_update(moved, state, grad_out, ids, SPEC)
    rn.embedding_bag_sgd_update(moved, grad_out, *bags, "max")
    rn.embedding_bag_adagrad_update(moved, state, grad_out, *bags, "mean")
    rn.embedding_bag_sgd_update(moved, grad_out, *bags, MIXED)
    rn.embedding_bag_adagrad_update(moved, state, grad_out, *bags, MIXED)
    block_sums = np.zeros(-(-array.size // 8), np.float32)
    rn.embedding_bag_adagrad_update(moved, block_sums, grad_out, *bags, MIXED, state_block=8)
    return [part.tobytes() for part in (*found, moved, state, block_sums)]


@pytest.mark.usefixtures("threads_for_everything")
def test_every_function_gives_the_same_bits_on_any_number_of_threads():
    allowed = numba.get_num_threads()
    found = []
    for threads in range(1, allowed + 1):
        numba.set_num_threads(threads)
        try:
            found.append(results())
        finally:
            numba.set_num_threads(allowed)
    assert all(other == found[0] for other in found)


@pytest.mark.parametrize(
    ("scans", "prefetched"), [(0, 0), (driver.MAX_SCANS, 0), (driver.MAX_SCANS, 1 << 40)]
)
def test_every_function_gives_the_same_bits_for_any_number_of_workers(
    scans, prefetched, set_workers, monkeypatch
):
    """Also more workers than this machine has threads; by sorting and by scanning."""
    expected = results()
    monkeypatch.setattr(driver, "MAX_SCANS", scans)
    monkeypatch.setattr(driver, "MAX_PREFETCHED", prefetched)
    monkeypatch.setattr(driver, "SUMS_PER_OUTPUT", 1e12)
    for workers in (1, 2, 3, 7, 2 * ROWS):
        set_workers(workers)
        assert results() == expected


def test_small_calls_use_one_thread_and_large_ones_all():
    allowed = numba.config.NUMBA_NUM_THREADS  # not what an earlier call may have left
    numba.set_num_threads(allowed)
    for elements, threads in ((launch.ELEMENTS_PER_THREAD - 1, 1), (1 << 60, allowed)):
        assert launch.threads_for(elements) == threads
        assert launch.launch(threads, numba.get_num_threads) == threads
        assert numba.get_num_threads() == allowed
    with pytest.raises(KeyError):
        launch.launch(1, {}.__getitem__, "absent")
    assert numba.get_num_threads() == allowed
    results()  # small calls of every public function
    assert numba.get_num_threads() == allowed


def interrupted(call, place):
    """Whether a call enters so many functions of Python's; it is interrupted as it enters the last.

    There, among other places, a signal is heard.
    """
    entered = 0

    def trace(frame, event, argument):
        nonlocal entered
        entered += 1
        if entered == place:
            raise KeyboardInterrupt

    sys.settrace(trace)
    try:
        call()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(None)
    return entered >= place


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="there is one thread")
def test_an_interrupt_leaves_the_number_of_threads_as_it_was():
    def blas_threads():
        return [library["num_threads"] for library in threadpoolctl.threadpool_info()]

    array, ids = np.zeros(SPEC.array_size, np.float32), np.zeros((4, 3), np.int64)
    grad_out = np.ones((4, 3, 20), np.float32)
    model, batch = tiny_model("robe", threads=1), batch_of(4)
    calls = (
        lambda: rn.sgd_update(array, grad_out, ids, SPEC),
        lambda: model.train_step(*batch, 0.1),
    )
    for call in calls:
        call()  # compiles, and loads libraries
    before = numba.get_num_threads(), blas_threads()
    for call in calls:
        place = 1
        while interrupted(call, place):
            assert numba.get_num_threads() == before[0], place
            call()
            assert blas_threads() == before[1], place
            place += 1
        assert place > 20


def test_python_threads_may_call_at_once():
    expected = results()
    with ThreadPoolExecutor(4) as pool:
        assert all(found == expected for found in pool.map(lambda _: results(), range(8)))


def run_on_workqueue(code):
    """Run a program under Numba's threading layer that cannot be entered twice."""
    code = (
        f"import numba; numba.config.THREADING_LAYER = 'workqueue'\n{code}"
        "print(numba.threading_layer())"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert finished.stdout == "workqueue\n", finished.stderr


def test_python_threads_take_turns_where_numba_cannot_do_otherwise():
    code = (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from tests.ops.test_threads import results\n"
        "pool = ThreadPoolExecutor(4)\n"
        "assert len({tuple(found) for found in pool.map(lambda _: results(), range(8))}) == 1\n"
    )
    run_on_workqueue(code)


def test_models_of_every_kind_score_where_numba_cannot_be_called_at_once():
    code = (
        "from robe_numba.dlrm import KINDS\n"
        "from tests.dlrm.test_model import batch_of, tiny_model\n"
        "dense, indices, _ = batch_of(3000)\n"
        "for kind in KINDS:\n"
        "    one, two = (tiny_model(kind, threads=n).logits(dense, indices) for n in (1, 2))\n"
        "    assert one.tobytes() == two.tobytes()\n"
    )
    run_on_workqueue(code)


def fork_within_kernels():
    """Fork while another thread is within a kernel: all children can run kernels."""
    expected, stop = results(), threading.Event()

    def work():
        while not stop.is_set():
            results()

    thread = threading.Thread(target=work)
    thread.start()
    held = all(holds_in_a_child(lambda: results() == expected) for _ in range(10))
    stop.set()
    thread.join()
    assert held


@forks
def test_a_process_forked_within_a_kernel_runs_kernels():
    run_on_workqueue("from tests.ops.test_threads import fork_within_kernels as check; check()\n")


def try_scoring(queue, model, dense, indices):
    """What scoring in this process comes to."""
    try:
        model.logits(dense, indices)
        queue.put("done")
    except RuntimeError as error:
        queue.put(str(error))


def try_lookup(queue):
    """What a lookup in this process comes to."""
    try:
        rn.lookup(np.zeros(3000, np.float32), np.zeros((1, 3), np.int64), SPEC)
        queue.put("done")
    except RuntimeError as error:
        queue.put(str(error))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="no fork on this system"
)
@pytest.mark.parametrize("task", ["lookup", "robe", "full"])
def test_a_forked_process_is_told_what_to_do(task):
    """It would be ended by OpenMP without a word, and a pool would wait for it for ever."""
    results()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    if task == "lookup":
        child = context.Process(target=try_lookup, args=(queue,))
    else:
        model, (dense, indices, _) = tiny_model(task, threads=2), batch_of(3000)
        model.logits(dense, indices)  # starts its threads, which no fork takes along
        child = context.Process(target=try_scoring, args=(queue, model, dense, indices))
    child.start()
    answer = queue.get(timeout=60)
    child.join()
    wanted = 'get_context("spawn")' if numba.threading_layer() == "omp" else "done"
    assert wanted in answer


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")],
)
def test_importing_the_package_limits_spinning_before_any_kernel_starts(given, expected):
    """Threads that spin between kernels would slow down whatever else runs on the machine."""
    names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    code = (
        "import robe_numba, os, sys\n"
        "assert 'numba' not in sys.modules\n"
        "print(os.environ.get('GOMP_SPINCOUNT'))"
    )
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, env=environment | given, capture_output=True, text=True)
    assert found.stdout.strip() == expected, found.stderr
