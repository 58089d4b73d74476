"""Parts of a log read ahead by threads, and cut into mini-batches."""

import os
import threading
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import islice

from data_tools.batch import Batch, Rows
from data_tools.loader.peers import Cuts
from data_tools.rows import concatenate, take

THREAD_NAME = "read-ahead"


def stream(
    read: Callable[[int], Rows], cuts: Cuts, threads: int, finish: Callable[[Rows], Batch]
) -> Generator[Batch, None, None]:
    """Cut the rows of consecutive parts into mini-batches, or a rank's share of each.

    Parameters
    ----------
    read : callable(part)
        Returns the rows of a part that are in any batch; called by the threads.
    cuts : Cuts
        The batches.
    threads : int
        See `read_ahead`.
    finish : callable(rows)
        Makes a batch of its rows; called by the caller's thread.

    Yields
    ------
    Batch
        Views of a part if the batch is within one, else copies. A batch comes after the part in
        which the whole batch ends, even if the rank's share ends earlier. So all ranks have read
        the same parts after the same number of batches.
    """
    collected: list[Rows] = []  # of one batch
    with closing(read_ahead(read, cuts.parts, threads)) as parts:
        for number in cuts.parts:
            part, start = next(parts), 0
            counts = cuts.shares(number)[:, cuts.rank].tolist()
            for batch, count in enumerate(counts, 1):
                collected.append(take(part, slice(start, start + count)))
                start += count
                if batch < len(counts) or cuts.ends_batch(number):
                    rows = collected[0] if len(collected) == 1 else concatenate(collected)
                    yield finish(rows)
                    collected = []
            del part  # or its memory would be held until the next part is read


def read_ahead(
    read: Callable[[int], Rows], numbers: range, threads: int
) -> Generator[Rows, None, None]:
    """Yield `read(number)` for each number, in order, while `threads` threads read what follows.

    At most `threads` + 1 results exist at a time: the yielded one, and one for each thread. An
    error of `read` is raised in place of its result. No thread outlives the iterator. With 0
    threads the caller's own thread reads, and nothing is read ahead.
    """
    if not threads:
        yield from map(read, numbers)
        return
    pool, process = ThreadPoolExecutor(threads, thread_name_prefix=THREAD_NAME), os.getpid()
    try:
        following = iter(numbers)
        reading: deque[Future[Rows]] = deque(
            pool.submit(read, number) for number in islice(following, threads)
        )
        for place in range(len(numbers)):
            if os.getpid() != process:  # a forked child has none of the threads
                yield from map(read, numbers[place:])
                return
            result = reading.popleft().result()
            reading.extend(pool.submit(read, number) for number in islice(following, 1))
            yield result
    finally:
        # The garbage collector may run this on a thread of the pool, which cannot wait for itself.
        own = threading.current_thread().name.startswith(THREAD_NAME)
        pool.shutdown(wait=not own)
