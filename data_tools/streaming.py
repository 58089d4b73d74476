"""Parts of a log read ahead by threads, and cut into mini-batches."""

import threading
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import islice

from data_tools.batch import Batch, concatenate, take

THREAD_NAME = "read-ahead"


def stream(
    read: Callable[[int], Batch],
    numbers: range,
    threads: int,
    batch_size: int,
    skipped: int,
    rows: int,
) -> Generator[Batch, None, None]:
    """Cut the rows of consecutive parts into mini-batches.

    Parameters
    ----------
    read : function of a part's number  Returns its rows; called by the threads.
    numbers : range                     Of the parts, in order.
    threads : int                       See `read_ahead`.
    batch_size : int                    Rows of every batch but the last, which may have fewer.
    skipped : int                       Rows of the first part that come before the first batch.
    rows : int                          Rows of all batches.

    Yields
    ------
    Batch     Views of a part where it lies within one, else copies.
    """
    collected: list[Batch] = []
    missing = min(batch_size, rows)  # of the batch that is being collected
    with closing(read_ahead(read, numbers, threads)) as parts:
        for part in parts:
            start, skipped = skipped, 0
            while missing and start < len(part.dense):
                collected.append(take(part, slice(start, start + missing)))
                count = len(collected[-1].dense)
                start, missing, rows = start + count, missing - count, rows - count
                if not missing:
                    yield collected[0] if len(collected) == 1 else concatenate(collected)
                    collected, missing = [], min(batch_size, rows)
            del part  # or its memory would be kept until the next part is there


def read_ahead(
    read: Callable[[int], Batch], numbers: range, threads: int
) -> Generator[Batch, None, None]:
    """Yield `read(number)` for each number, in order, while `threads` threads read what follows.

    At most `threads` + 1 results exist at a time: the yielded one, and one for each thread. An
    error of `read` is raised in place of its result. No thread outlives the iterator. With 0
    threads the caller's own thread reads, and nothing is read ahead.
    """
    if not threads:
        yield from map(read, numbers)
        return
    pool = ThreadPoolExecutor(threads, thread_name_prefix=THREAD_NAME)
    try:
        following = iter(numbers)
        reading: deque[Future[Batch]] = deque(
            pool.submit(read, number) for number in islice(following, threads)
        )
        while reading:
            result = reading.popleft().result()
            reading.extend(pool.submit(read, number) for number in islice(following, 1))
            yield result
    finally:
        # The garbage collector may bring a thread of the pool here, which cannot wait for itself.
        own = threading.current_thread().name.startswith(THREAD_NAME)
        pool.shutdown(wait=not own)
