"""The processes of a server: one, or several that share a port and end together."""

import contextlib
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from typing import Any

from robe_numba.serving.server.metrics import Counters
from robe_numba.serving.server.running import GRACE_SECONDS, Service, cannot_listen, run


def serve(service: Service, host: str, port: int, workers: int = 1) -> None:
    """Serve until SIGTERM or SIGINT; what is in flight then is finished.

    Parameters
    ----------
    service : Service
        What to serve.
    host : str
        Name or address to listen at.
    port : int
        0 for a free one.
    workers : int
        Processes, each with the models in its own memory.

    Raises
    ------
    ValueError, OSError
        A run cannot be served, or the port is in use.
    RuntimeError
        A worker ended unasked.
    """
    start = time.perf_counter()
    listeners = _bound(host, port, workers)
    address = listeners[0].getsockname()
    url = f"http://{f'[{address[0]}]' if ':' in address[0] else address[0]}:{address[1]}"

    def ready() -> None:
        seconds = time.perf_counter() - start
        service.log(f"{url} serves {', '.join(service.runs)}: ready after {seconds:.2f} s")

    with contextlib.ExitStack() as stack:
        for listener in listeners:
            stack.enter_context(listener)
        if workers == 1:
            run(service, listeners[0], Counters(list(service.runs)), ready)
        else:
            _serve_together(service, listeners, ready)


def _bound(host: str, port: int, workers: int) -> list[socket.socket]:
    """A socket for each worker, bound to the same port.

    Raises
    ------
    OSError
        The host is unknown, or the port is in use.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
        # Without SO_REUSEPORT first: with it, two servers could share a port unawares.
        first = _socket(family, address, shared=False)
        if workers == 1:
            return [first]
        address = (address[0], first.getsockname()[1], *address[2:])
        first.close()
        return [_socket(family, address, shared=True) for _ in range(workers)]
    except OSError as error:
        raise cannot_listen(host, port, error) from None


def _socket(family: int, address: Any, shared: bool) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        made.bind(address)
    except OSError:
        made.close()
        raise
    return made


def _serve_together(service: Service, listeners: list[socket.socket], ready: Any) -> None:
    """Start the workers, wait until one ends or a signal comes, and end all."""
    context = multiprocessing.get_context("spawn")
    names, count = list(service.runs), len(listeners)
    memory = context.RawArray("d", Counters.size_for(len(names), count))
    with _signals_noted() as (noted, asked):
        lines, processes = [], []
        for number, listener in enumerate(listeners):
            line, other = context.Pipe()
            process = context.Process(
                target=_work, args=(service, listener, memory, count, number, other)
            )
            process.start()
            other.close()
            listener.close()
            lines.append(line)
            processes.append(process)
        sentinels = [process.sentinel for process in processes]
        missing = set(lines)
        while not asked and not {*sentinels}.intersection(wait([*missing, *sentinels, noted])):
            for line in [line for line in missing if line.poll()]:
                with contextlib.suppress(EOFError):  # it has ended
                    line.recv()
                missing.discard(line)
            if not missing and ready is not None:
                ready()
                ready = None
        for process in processes:
            process.terminate()
        deadline = time.monotonic() + GRACE_SECONDS + 10
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
            process.kill()  # if it has not ended
            process.join()
    codes = [process.exitcode for process in processes]
    if not asked or not {*codes} <= {0, -signal.SIGTERM}:  # the latter while it was loading
        raise RuntimeError(f"a worker ended; exit statuses {codes}")


@contextlib.contextmanager
def _signals_noted() -> Iterator[tuple[Connection, list[int]]]:
    """A connection that can be read once SIGTERM or SIGINT has come, and a list that has it."""
    reader, writer = multiprocessing.Pipe(duplex=False)
    numbers: list[int] = []

    def note(number: int, frame: Any) -> None:
        if not numbers:
            numbers.append(number)
            writer.send_bytes(b"")

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield reader, numbers
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _work(
    service: Service,
    listener: socket.socket,
    memory: Any,
    count: int,
    number: int,
    line: Connection,
) -> None:
    """The whole life of a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal; the parent passes on SIGTERM

    def end_with_parent() -> None:
        with contextlib.suppress(EOFError, OSError):
            line.recv()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        counters = Counters(list(service.runs), count, number, memory)
        run(service, listener, counters, lambda: line.send(True))
    except (OSError, ValueError) as error:
        service.log(f"error: {error}", important=True)
        sys.exit(1)
