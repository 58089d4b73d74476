"""Numba's simulator several times as fast.

Numba runs each simulated thread as a thread of Python, and polls all of them, which keeps them from
running. Here they take turns, in a random order, so that a missing barrier shows. A worker runs one
after the other as long as they end without a barrier. Only where one waits at a barrier does
another worker go on with the rest.

Numba also replaces `cuda` by the simulated one in a function's module whenever a kernel calls the
function. Here a launch replaces it in all modules, once.
"""

import random
import sys
import threading
from contextlib import contextmanager

import numpy as np
from numba import cuda
from numba.cuda.simulator import kernel

IDLE = []  # workers
ORDER = random.Random(0)


def held_lock():
    """A lock to wait for until someone releases it."""
    lock = threading.Lock()
    lock.acquire()
    return lock


class Block:
    """A thread block: simulated threads that have not begun, and workers with those that have."""

    def __init__(self, manager, place, arguments):
        self.manager, self.place, self.arguments = manager, kernel.Dim3(*place), arguments
        self.threads = [kernel.Dim3(*thread) for thread in np.ndindex(*manager._block_dim)]
        ORDER.shuffle(self.threads)
        self.ready, self.waiting, self.error, self.done = [], [], None, held_lock()

    def go_on(self):
        """Let one worker run: with threads that have not begun, or beyond a barrier."""
        if self.threads:
            worker = IDLE.pop() if IDLE else Worker()
            worker.block, worker._manager, worker.blockIdx = self, self.manager, self.place
            self.ready.append(worker)
        elif not self.ready:  # all threads have reached the barrier
            self.ready, self.waiting = self.waiting, self.ready
            ORDER.shuffle(self.ready)
        (self.ready.pop().turn if self.ready else self.done).release()


class Worker(threading.Thread):
    """Runs simulated threads, one after the other."""

    syncthreads_and = kernel.BlockThread.syncthreads_and
    syncthreads_count = kernel.BlockThread.syncthreads_count
    syncthreads_or = kernel.BlockThread.syncthreads_or

    def __init__(self):
        super().__init__(daemon=True)
        self.turn = held_lock()
        self.start()

    def syncthreads(self):
        """A barrier; called by the kernel."""
        self.block.waiting.append(self)
        self.block.go_on()
        self.turn.acquire()
        if self.block.error:
            raise RuntimeError("another thread of the block failed")

    def run(self):
        np.seterr(over="ignore")  # hashes overflow on purpose; a filter of warnings is slower
        while True:
            self.turn.acquire()
            block = self.block
            try:
                while block.threads:
                    self.threadIdx = block.threads.pop()
                    block.manager._f(*block.arguments)
            except Exception as error:
                block.threads.clear()
                block.error = block.error or error
            IDLE.append(self)
            block.go_on()


def run_block(manager, place, *arguments):
    """In place of `BlockManager.run`."""
    block = Block(manager, place, arguments)
    block.go_on()
    block.done.acquire()
    if block.error:
        raise block.error


@contextmanager
def swapped_cuda_module(function, simulated):
    """In place of Numba's: let `cuda` be the simulated one in all modules of kernels."""
    loaded = [module for name, module in sys.modules.items() if name.startswith("robe_numba.")]
    modules = [module for module in loaded if vars(module).get("cuda") is cuda]
    for module in modules:
        module.cuda = simulated
    try:
        yield
    finally:
        for module in modules:
            module.cuda = cuda


def call(self, *arguments, launch=kernel.FakeCUDAKernel.__call__):
    """In place of `FakeCUDAKernel.__call__`: a device function is called as it is."""
    return self.fn(*arguments) if self._device else launch(self, *arguments)


def install():
    """Let all kernels that are simulated from now on run so."""
    kernel.BlockManager.run = run_block
    kernel.swapped_cuda_module = swapped_cuda_module
    kernel.FakeCUDAKernel.__call__ = call
