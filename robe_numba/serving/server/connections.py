"""Connections: uvicorn's, with bounds on time and on headers, and errors as JSON."""

import asyncio
from typing import Any

import msgspec
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from robe_numba.serving.server.app import CLOSE

SWEEP_SECONDS = 0.5
MOST_HEAD = 1 << 16  # bytes of a request line and headers, of trailers, or between two chunks


class _Cycle(RequestResponseCycle):
    """A request and its answer, which the application sends whole: it is one write.

    Uvicorn's own `send` checks each header by regular expressions and writes twice: a server that
    does nothing else answers two thirds as many requests with it. Our headers are our own.
    """

    _start: Any = None

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self._start = message
            return
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected or self.transport.is_closing():
            self.disconnected = True  # which uvicorn says of the latest of several requests only
            return
        parts = [STATUS_LINE[self._start["status"]]]
        headers = self._start["headers"]
        for name, value in (*self.default_headers, *headers):  # the default is the date
            parts += (name, b": ", value, b"\r\n")
        if CLOSE in headers:
            self.keep_alive = False
        elif not self.keep_alive:
            parts.append(b"connection: close\r\n")
        parts.append(b"\r\n")
        if self.scope["method"] != "HEAD":
            parts.append(message["body"])
        self.transport.write(b"".join(parts))
        self.response_started = self.response_complete = True
        self.waiting_for_100_continue = False
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()


class Connection(HttpToolsProtocol):
    """A connection that is closed if a request does not arrive, or an answer does not leave."""

    begun: float | None = None  # when the client began what it has not finished: a request
    stuck: float | None = None  # since when it has read nothing of what waits for it
    head: int = 0  # bytes that came since the headers were whole or a part of the body came

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self.begun = self.loop.time()

    def data_received(self, data: bytes) -> None:
        self.head += len(data)
        super().data_received(data)
        if self.head > MOST_HEAD and self.begun is not None and not self.transport.is_closing():
            self._refuse(431, f"the headers are longer than {MOST_HEAD} bytes; send fewer")

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client will send nothing more: answer what is whole, then close."""
        if self.begun is not None or self.cycle is None or self.cycle.response_complete:
            return False  # close now
        self.cycle.keep_alive = False  # it is the latest request; those before it are answered
        return True

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.begun = self.loop.time()

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self.cycle.__class__ = _Cycle
        self.head = 0

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        self.head = 0

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self.begun = None

    def check(self, now: float, seconds: float) -> None:
        """Close the connection if the client has kept it waiting for so long."""
        if self.transport.get_write_buffer_size() == 0:
            self.stuck = None
        elif self.stuck is None:
            self.stuck = now
        if self.stuck is not None and now - self.stuck > seconds:
            self.transport.abort()
        elif self.begun is not None and now - self.begun > seconds:
            self.begun = None
            if self.transport.is_closing():
                return
            cycle = self.cycle
            refused = cycle is not None and cycle.response_started and cycle.more_body
            if self.headers is None or refused:  # nothing has come, or it was answered long ago
                self.transport.close()
            else:
                self._refuse(408, f"the request was not whole after {seconds:g} seconds")

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP."""
        self._refuse(400, "the request is not valid HTTP/1.1")

    def _refuse(self, status: int, message: str) -> None:
        body = msgspec.json.encode({"error": message})
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        self.transport.write(STATUS_LINE[status] + head % len(body) + body)
        self.transport.close()


async def sweep(connections: Any, seconds: float) -> None:
    """Check all connections twice a second, for ever."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(SWEEP_SECONDS)
        for connection in list(connections):
            connection.check(loop.time(), seconds)
