"""Calls within calls: a signal handler and a finalizer leave alone what they come between.

Both run on the thread that they interrupt, between any two lines of its Python.
"""

import gc
import random
import signal
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

import robe_numba as rn
from robe_numba.dlrm import DLRM, DLRMConfig, make_embedding

INTERRUPTIONS = 80  # by signals, of each call
ALLOCATIONS = 60  # of a call before a collection, from 1 to so many


def calls(seed, rows):
    """Functions by name: each does the same work whenever it is called, and gives its bytes."""
    draw = np.random.default_rng(seed)
    spec = rn.RobeSpec(700 + 13 * seed, 8, 24, 3, sign=True)
    array, ids = draw.random(spec.array_size, np.float32), draw.integers(0, 2**62, (rows, 3))
    grad_out, state = draw.random((rows, 3, 24), np.float32), np.zeros_like(array)
    offsets = np.concatenate([[0], draw.integers(0, 3, 3 * rows).cumsum()])
    bags = (draw.integers(0, 2**62, offsets[-1]), offsets, spec)
    config = DLRMConfig(4, 3, 8, (8,), (8,))
    ids_of_model = draw.integers(0, 2**62, (300, 3))
    dense, labels = draw.random((300, 4), np.float32), np.ones(300, np.float32)
    shape = {"embedding_dim": 8, "num_tables": 3, "num_parameters": 400, "optimizer": "adagrad"}
    model = DLRM(config, make_embedding("robe", **shape), seed=seed, optimizer="adagrad", threads=1)
    arrays = {name: a.copy() for name, a in (model.parameters() | model.state()).items()}

    def updated(function, *arguments, **options):
        moved, sums = array.copy(), state.copy()
        function(*((moved, sums) if "adagrad" in function.__name__ else (moved,)), *arguments)
        return moved.tobytes() + sums.tobytes()

    def trained():
        model.load(arrays)
        loss = model.train_step(dense, ids_of_model, labels, 0.1)
        return str(loss).encode() + b"".join(a.tobytes() for a in model.parameters().values())

    def gradients():
        model.load(arrays)
        _, found = model.loss_and_gradients(dense, ids_of_model, labels)
        return b"".join(gradient.tobytes() for gradient in found.values())

    quantized = rn.quantize(array, 16)
    return {
        "lookup": lambda: rn.lookup(array, ids, spec).tobytes(),
        "lookup of int8": lambda: rn.lookup(quantized, ids, spec).tobytes(),
        "lookup_backward": lambda: rn.lookup_backward(grad_out, ids, spec).tobytes(),
        "sgd_update": lambda: updated(rn.sgd_update, grad_out, ids, spec),
        "adagrad_update": lambda: updated(rn.adagrad_update, grad_out, ids, spec),
        "embedding_bag": lambda: rn.embedding_bag(array, *bags, "mean").tobytes(),
        "bag_sgd": lambda: updated(rn.embedding_bag_sgd_update, grad_out, *bags, "max"),
        "bag_adagrad": lambda: updated(rn.embedding_bag_adagrad_update, grad_out, *bags, "mean"),
        "logits": lambda: model.logits(dense, ids_of_model).tobytes(),
        "gradients": gradients,
        "train_step": trained,
    }


def between():
    """What handlers and finalizers do, once everything has been compiled."""
    functions = calls(1, 40).values()  # more rows, so that they need more memory

    def everything():
        for function in functions:
            function()

    everything()
    return everything


def check_signals():
    """A timer goes off at a random time after the last handler ended, again and again."""
    everything, count, delays = between(), [0], random.Random(0)

    def begin():
        signal.setitimer(signal.ITIMER_REAL, delays.uniform(1e-6, 2e-4))

    def handle(number, frame):
        count[0] += 1
        everything()
        begin()

    signal.signal(signal.SIGALRM, handle)
    for name, call in calls(0, 20).items():
        expected, count[0] = call(), 0
        begin()
        while count[0] < INTERRUPTIONS:
            assert call() == expected, name
        signal.setitimer(signal.ITIMER_REAL, 0)
    print("done")


def check_finalizers():
    """The garbage collector runs after 1, 2, 3, ... allocations of a call."""
    everything, count = between(), [0]

    class Loop:
        def __init__(self):
            self.itself = self

        def __del__(self):
            count[0] += 1
            gc.disable()
            everything()

    functions = calls(0, 20)
    gc.freeze()  # or each collection would look through all that Numba has
    for name, call in functions.items():
        expected, count[0] = call(), 0
        for allocations in range(1, ALLOCATIONS):
            Loop()
            gc.set_threshold(allocations)
            gc.enable()
            found = call()
            gc.disable()
            gc.collect()
            assert found == expected, name
        assert count[0] == ALLOCATIONS - 1
    print("done")


def check_exceptions():
    """Handlers that raise leave calls unfinished, again and again; no memory stays behind."""
    call, before = calls(0, 2000)["bag_adagrad"], 0

    def handle(number, frame):
        raise InterruptedError

    signal.signal(signal.SIGALRM, handle)
    expected, raised, delays = call(), 0, random.Random(0)
    tracemalloc.start()
    while raised < 2 * INTERRUPTIONS:
        try:
            signal.setitimer(signal.ITIMER_REAL, delays.uniform(1e-6, 3e-3))
            call()
            signal.setitimer(signal.ITIMER_REAL, 0)
        except InterruptedError:
            raised += 1
        if raised == 10 and not before:
            before = tracemalloc.get_traced_memory()[0]
    assert call() == expected
    assert tracemalloc.get_traced_memory()[0] < before + 100_000
    print("done")


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers on this system")
@pytest.mark.parametrize("check", ["check_signals", "check_finalizers", "check_exceptions"])
def test_calls_within_calls(check):
    """In a process of its own, which may be stopped: a lock might be waited for for ever."""
    program = f"from tests.ops.test_reentry import {check} as check; check()"
    finished = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", program],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (finished.stdout, finished.returncode) == ("done\n", 0), finished.stderr
