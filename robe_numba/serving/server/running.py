"""One process of a server, from its listening socket to its end by a signal."""

import asyncio
import contextlib
import gc
import logging
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn

from robe_numba.dlrm.thread_pool import single_threaded_blas
from robe_numba.serving.server.app import App, Limits
from robe_numba.serving.server.connections import Connection, sweep
from robe_numba.serving.server.metrics import Counters
from robe_numba.serving.server.models import Model, Watcher

# While new work is refused but answered, so that no request that is on its way is lost.
DRAIN_SECONDS = 0.3
# The most that requests in flight may take after that.
GRACE_SECONDS = 30
# Python's default of 5 ms is what a scored batch could wait for the event loop to let go.
SWITCH_SECONDS = 0.0005
BACKLOG = 2048  # connections that the kernel holds for us, as uvicorn asks


@dataclass(frozen=True)
class Service:
    """What to serve, and how.

    Attributes
    ----------
    runs : mapping of str to Path
        The folders of the runs by the names of their models.
    limits : Limits
        What is refused.
    token : str, optional
        What clients must bring.
    timeout : int
        Seconds for a client to send a request or to read an answer, and of an idle connection.
    threads : int, optional
        Of scoring, per process.
    storage : str
        How embeddings are kept in memory, as for `Scorer`.
    quiet : bool
        Whether to write errors only.
    """

    runs: Mapping[str, Path]
    limits: Limits = field(default_factory=Limits)
    token: str | None = None
    timeout: int = 30
    threads: int | None = None
    storage: str = "float32"
    quiet: bool = False

    def log(self, line: str, important: bool = False) -> None:
        """Write a line to stderr; with `quiet` only if it is important."""
        if important or not self.quiet:
            print(line, file=sys.stderr, flush=True)


class _Server(uvicorn.Server):
    """Uvicorn's, which ends in order with exit status 0."""

    def __init__(self, config: uvicorn.Config, app: App):
        super().__init__(config)
        self._app = app

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Note SIGTERM and SIGINT; unlike uvicorn, do not raise them again at the end."""
        numbers = (signal.SIGTERM, signal.SIGINT)
        before = {number: signal.signal(number, self.handle_exit) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.draining = True
        await asyncio.sleep(DRAIN_SECONDS)
        await super().shutdown(sockets)


def run(
    service: Service,
    listener: socket.socket,
    counters: Counters,
    ready: Callable[[], Any],
) -> None:
    """Load the runs and serve them until SIGTERM or SIGINT; then finish what is in flight.

    Parameters
    ----------
    service : Service
        What to serve.
    listener : socket
        Bound, not yet listening; it is closed in the end.
    counters : Counters
        Where this process counts.
    ready : callable
        Called once requests are answered.

    Raises
    ------
    ValueError, OSError
        A run cannot be served, or the port is in use.
    """
    import uvloop

    sys.setswitchinterval(SWITCH_SECONDS)
    # Uvicorn's own lines say nothing that ours do not, except for its bugs.
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL if service.quiet else logging.ERROR)
    # Held all the time: setting BLAS back to several threads after each batch wakes them up, and
    # they spin on cores that others need.
    with single_threaded_blas():
        options = {"threads": service.threads, "storage": service.storage}
        models = [Model(name, run, **options) for name, run in service.runs.items()]
        # What has been imported is never garbage, and looking through it takes 60 ms, in which no
        # request is answered.
        gc.freeze()
        # Two servers may bind a port before one of them listens. Uvloop would ignore the error.
        try:
            listener.listen(BACKLOG)
        except OSError as error:
            host, port, *_ = listener.getsockname()
            raise cannot_listen(host, port, error) from None
        uvloop.run(_serve(service, models, listener, counters, ready))


def cannot_listen(host: str, port: int, error: OSError) -> OSError:
    """The error of a host that is unknown or a port that is in use, with its remedy."""
    return OSError(
        f"cannot listen at {host} port {port}: {error.strerror or error}; choose another --host or "
        f"--port"
    )


async def _serve(
    service: Service,
    models: list[Model],
    listener: socket.socket,
    counters: Counters,
    ready: Callable[[], Any],
) -> None:
    app = App(models, service.limits, counters, service.token, service.log)
    config = uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=service.timeout,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    server = _Server(config, app)
    watcher = Watcher([(model, counters.of(model.name)) for model in models], service.log)

    async def announce() -> None:
        while not server.started:
            await asyncio.sleep(0.002)
        ready()

    helpers = [
        asyncio.create_task(announce()),
        asyncio.create_task(sweep(server.server_state.connections, service.timeout)),
    ]
    try:
        await server.serve([listener])
    finally:
        for helper in helpers:
            helper.cancel()
        await asyncio.to_thread(watcher.close)
        await asyncio.to_thread(app.close)
