"""The server as an ASGI application: routes, authorization, and answers.

`…/infer` is the hot path: one look-up in a dict leads to it, and what follows runs in the task that
uvicorn makes for each request.
"""

import asyncio
import hmac
import time
import traceback
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from robe_numba.serving.server import page
from robe_numba.serving.server.batching import Arrivals, Batcher
from robe_numba.serving.server.bodies import (
    Receive,
    coding_for,
    compress,
    decompress,
    read_body,
    too_long,
)
from robe_numba.serving.server.facts import (
    JSON,
    Headers,
    about_model,
    about_server,
    below_version,
    ending,
    headers_of,
)
from robe_numba.serving.server.metrics import Counters, ModelCounters
from robe_numba.serving.server.models import Model
from robe_numba.serving.server.protocol import encode, parse
from robe_numba.serving.server.refusals import DisconnectedError, RefusedError, invalid

Send = Callable[[Any], Awaitable[None]]
CLOSE = (b"connection", b"close")
BINARY = b"application/octet-stream"
LARGE = 1 << 18  # bytes of a body that is parsed in a thread, so that others need not wait
MOST_HELD = 64  # bodies of the largest size that may be in memory, or arrays of as many bytes


@dataclass(frozen=True)
class Limits:
    """Bounds on what a server takes on.

    Attributes
    ----------
    max_batch : int
        Rows that are scored together.
    max_delay : float
        Seconds that a request waits for others while nothing is scored.
    queue : int
        Requests that wait for a model.
    max_body : int
        Bytes of a body, also decompressed.
    """

    max_batch: int = 4096
    max_delay: float = 0.001
    queue: int = 1024
    max_body: int = 8 << 20


class _Served:
    """A model, its batcher, and what is counted of it."""

    def __init__(self, model: Model, batcher: Batcher, counters: ModelCounters):
        self.model, self.batcher, self.counters = model, batcher, counters


class App:
    """An ASGI application that serves models; it is made while the event loop runs.

    Parameters
    ----------
    models : iterable of Model
        What to serve.
    limits : Limits
        What is refused.
    counters : Counters
        What is counted, for all of them.
    token : str, optional
        What every request but those for health must bring.
    log : callable
        Gets the text of an error that is a bug, and that this is important.
    """

    def __init__(
        self,
        models: Iterable[Model],
        limits: Limits,
        counters: Counters,
        token: str | None = None,
        log: Callable[[str, bool], None] = print,
    ):
        self._limits, self._counters, self._log = limits, counters, log
        self._token = None if token is None else token.encode()
        self._arrivals, self._no_model = Arrivals(), counters.of("")
        self._held = 0  # bytes of the requests in memory: bodies, later their arrays
        self.draining = False  # whether new work is refused
        self._served: dict[str, _Served] = {}
        for model in models:
            own = counters.of(model.name)
            batcher = Batcher(
                model.name, limits.max_batch, limits.max_delay, limits.queue, self._arrivals, own
            )
            self._served[model.name] = _Served(model, batcher, own)
        self._infer = {f"/v2/models/{name}/infer": served for name, served in self._served.items()}

    def close(self) -> None:
        """End the threads that score."""
        for served in self._served.values():
            served.batcher.close()

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Answer a request."""
        start = time.perf_counter()
        served = self._infer.get(scope["path"])
        hot = served is not None and scope["method"] == "POST"
        if served is None:
            served = self._named(scope["path"])
        try:
            headers = dict(scope["headers"])
            if self._token is not None:
                self._authorize(scope["path"], headers)
            if served is not None and (hot or _is_inference(served.model, scope)):
                body, answer_headers = await self._scores(served, headers, receive)
            else:
                body, answer_headers = self._fact(served, scope["path"], scope["method"])
            status = 200
        except RefusedError as error:
            status, body, answer_headers = self._refusal(error, scope)
        except DisconnectedError:
            return
        except Exception:
            request = f"{scope['method']} {scope['path']!r}"
            self._log(f"error in {request}: {traceback.format_exc()}", True)
            status, body, answer_headers = self._refusal(
                RefusedError(500, "the server failed; its log says why"), scope
            )
        counters = self._no_model if served is None else served.counters
        counters.request(status, time.perf_counter() - start)
        if self.draining:
            answer_headers += (CLOSE,)
        await send({"type": "http.response.start", "status": status, "headers": answer_headers})
        await send({"type": "http.response.body", "body": body})

    async def _scores(
        self, served: _Served, headers: Mapping[bytes, bytes], receive: Receive
    ) -> tuple[bytes, Headers]:
        """Score the rows of a request."""
        size = self._admit(headers)
        try:
            scorer = served.model.scorer  # also of the answer, whatever is loaded meanwhile
            self._arrivals.count += 1
            try:
                body = await read_body(receive, self._limits.max_body)
                arguments = (headers, body, scorer)
                if size <= LARGE and b"content-encoding" not in headers:
                    rows = self._parsed(*arguments)
                else:
                    rows = await asyncio.to_thread(self._parsed, *arguments)
            finally:
                self._arrivals.count -= 1
            size = self._hold(rows.nbytes, instead_of=size)
            scores = await served.batcher.submit(scorer, rows.dense, rows.ids, rows.multi_hot)
        finally:
            self._held -= size
        content, length = encode(served.model.name, scorer.version, scores, rows)
        return _with_headers(content, length, headers.get(b"accept-encoding"))

    def _admit(self, headers: Mapping[bytes, bytes]) -> int:
        """Refuse what can be refused by the headers alone.

        Returns
        -------
        int
            The bytes that the body may take; they are held, see `_hold`.
        """
        if self.draining:
            raise ending()
        kind = headers.get(b"content-type", JSON)
        if kind not in (JSON, BINARY) and not kind.lower().startswith((JSON + b";", BINARY + b";")):
            raise RefusedError(
                415,
                f"Content-Type is {kind.decode('latin-1')!r}; use {JSON.decode()}, or "
                f"{BINARY.decode()} with binary tensors",
            )
        limit, length = self._limits.max_body, headers.get(b"content-length")
        if length is None and b"transfer-encoding" not in headers:
            raise RefusedError(411, "the request has no body; send one, with Content-Length")
        if length is not None and int(length) > limit:
            raise too_long(limit)
        return self._hold(limit if length is None else int(length))

    def _hold(self, size: int, instead_of: int = 0) -> int:
        """Count bytes of a request as being in memory; refuse it where they are too many."""
        if self._held + size - instead_of > MOST_HELD * self._limits.max_body:
            raise RefusedError(
                503, "too many bytes are in memory; try again later", (b"retry-after", b"1")
            )
        self._held += size - instead_of
        return size

    def _parsed(self, headers: Mapping[bytes, bytes], body: bytes, scorer: Any) -> Any:
        coding = headers.get(b"content-encoding")
        if coding is not None:
            body = decompress(body, coding, self._limits.max_body)
        text = headers.get(b"inference-header-content-length")
        length = None if text is None else _whole_number(text)
        columns = scorer.num_dense, scorer.num_tables, scorer.num_multi_hot
        rows = parse(body, length, *columns, bool(scorer.weight_names))
        try:
            scorer.check(rows.dense, rows.ids, rows.multi_hot)
        except ValueError as error:  # in a batch it would fail the requests of others, too
            raise invalid(str(error)) from None
        return rows

    def _authorize(self, path: str, headers: Mapping[bytes, bytes]) -> None:
        """Require the token, except for health.

        Raises
        ------
        RefusedError
            Status 401. A browser that asks for the page gets it with that status: it has no data,
            asks for the token, and sends it along when it asks for data.
        """
        if path in ("/v2/health/live", "/v2/health/ready"):
            return
        given = headers.get(b"authorization", b"")
        scheme, _, token = given.partition(b" ")
        if scheme.lower() != b"bearer" or not hmac.compare_digest(token, self._token or b""):
            words = "is wrong" if given else "is missing"
            raise RefusedError(
                401,
                f"the token {words}; send the header Authorization: Bearer TOKEN",
                (b"www-authenticate", b"Bearer"),
            )

    def _refusal(self, error: RefusedError, scope: Any) -> tuple[int, bytes, Headers]:
        if error.status == 401 and scope["path"] == "/" and scope["method"] == "GET":
            return error.status, page.HTML, (*page.HEADERS, *error.headers)
        body = msgspec.json.encode({"error": str(error)})
        return error.status, body, (*headers_of(JSON, body), *error.headers)

    def _named(self, path: str) -> _Served | None:
        """The model that a path is about."""
        parts = path.split("/", 4)
        return self._served.get(parts[3]) if parts[1:3] == ["v2", "models"] and parts[3:] else None

    def _fact(self, served: _Served | None, path: str, method: str) -> tuple[bytes, Headers]:
        """The answer to anything but a request for scores."""
        if served is not None:
            answer = about_model(served.model, path, self.draining)
        else:
            models = {name: other.model for name, other in self._served.items()}
            answer = about_server(models, self._counters, path, self.draining)
        if method not in ("GET", "HEAD"):
            raise _wrong_method(method, "GET")
        return answer


def _is_inference(model: Model, scope: Any) -> bool:
    """Whether this asks for scores by a path with a version."""
    if below_version(model, scope["path"]) != ["infer"]:
        return False
    if scope["method"] != "POST":
        raise _wrong_method(scope["method"], "POST")
    return True


def _with_headers(
    content: bytes, length: int | None, accepted: bytes | None
) -> tuple[bytes, Headers]:
    """An answer to an inference, compressed if the client accepts that, and its headers."""
    extra: Headers = ()
    if accepted is not None and (coding := coding_for(accepted, len(content))) is not None:
        content, extra = compress(content, coding), ((b"content-encoding", coding),)
    if length is None:
        return content, (*headers_of(JSON, content), *extra)
    extra = (*extra, (b"inference-header-content-length", b"%d" % length))
    return content, (*headers_of(BINARY, content), *extra)


def _whole_number(text: bytes) -> int:
    """The value of Inference-Header-Content-Length."""
    if not text.isdigit() or len(text) > 18:
        raise invalid(
            f"Inference-Header-Content-Length is {text[:40].decode('latin-1')!r}; it must be a "
            f"whole number of bytes"
        )
    return int(text)


def _wrong_method(method: str, right: str) -> RefusedError:
    return RefusedError(405, f"the method is {method}; use {right}", (b"allow", right.encode()))
