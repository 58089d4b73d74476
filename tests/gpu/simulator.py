"""Numba's simulator several times as fast: its threads take turns.

Numba starts a thread of Python's for each simulated one and polls them all, which keeps them from
running. Here threads are kept for the next block, and one at a time runs up to its next barrier,
in a random order, so that a barrier that is missing shows.
"""

import random
import threading

import numpy as np
from numba.cuda.simulator import kernel

IDLE = []  # threads that wait for a block
ORDER = random.Random(0)


def held_lock():
    """A lock to wait for until someone releases it."""
    lock = threading.Lock()
    lock.acquire()
    return lock


class Turn(threading.Thread):
    """Runs simulated threads, one after the other."""

    syncthreads_and = kernel.BlockThread.syncthreads_and
    syncthreads_count = kernel.BlockThread.syncthreads_count
    syncthreads_or = kernel.BlockThread.syncthreads_or

    def __init__(self):
        super().__init__(daemon=True)
        self._mine = held_lock()
        self.start()

    def begin(self, manager, work, block, thread):
        """Run work() as a thread of a block, from the next turn on."""
        self._manager, self._work = manager, work
        self.blockIdx, self.threadIdx = block, thread
        width, height, _ = manager._block_dim
        self.thread_id = thread.x + width * (thread.y + height * thread.z)
        self.done, self.abort, self.error = False, False, None

    def take(self):
        """Let the thread run up to its next barrier, or to its end."""
        self._mine.release()
        self._manager.taken.acquire()

    def syncthreads(self):
        """A barrier; called by the kernel."""
        self._manager.taken.release()
        self._mine.acquire()
        if self.abort:
            raise RuntimeError("another thread of the block failed")

    def run(self):
        while True:
            self._mine.acquire()
            try:
                self._work()
            except Exception as error:
                self.error = error
            self.done = True
            self._manager.taken.release()


def run_block(manager, block, *arguments):
    """What `BlockManager.run` does."""
    manager.taken = held_lock()
    threads = []
    for thread in np.ndindex(*manager._block_dim):
        try:
            turn = IDLE.pop()
        except IndexError:
            turn = Turn()
        work = lambda: manager._f(*arguments)  # noqa: E731
        turn.begin(manager, work, kernel.Dim3(*block), kernel.Dim3(*thread))
        threads.append(turn)
    running, error = list(threads), None
    while running:
        ORDER.shuffle(running)
        for turn in running:
            turn.take()
            if turn.error and not error:
                error = turn.error
                for other in running:
                    other.abort = True
        running = [turn for turn in running if not turn.done]
    IDLE.extend(threads)
    if error:
        raise error


def install():
    """Let all kernels that are simulated from now on run so."""
    kernel.BlockManager.run = run_block
