"""Bodies of requests, read and decompressed within bounds, and compressed answers."""

import zlib
from collections.abc import Awaitable, Callable
from typing import Any

from robe_numba.serving.server.refusals import DisconnectedError, RefusedError, invalid

Receive = Callable[[], Awaitable[Any]]
# Window bits of zlib; "deflate" is the zlib format, as RFC 9110 says.
_WINDOWS = {b"gzip": 31, b"deflate": 15}
LEAST = 1024  # bytes of an answer that is worth compressing


async def read_body(receive: Receive, limit: int) -> bytes:
    """The body of a request, as it was sent.

    Raises
    ------
    RefusedError
        Status 413: it is longer than `limit`.
    DisconnectedError
        The client left.
    """
    message = await receive()
    if message["type"] != "http.request":
        raise DisconnectedError
    body: bytes = message["body"]
    if not message["more_body"]:
        if len(body) > limit:
            raise too_long(limit)
        return body
    parts, length = [body], len(body)
    while message["more_body"]:
        if length > limit:
            raise too_long(limit)
        message = await receive()
        if message["type"] != "http.request":
            raise DisconnectedError
        parts.append(message["body"])
        length += len(message["body"])
    if length > limit:
        raise too_long(limit)
    return b"".join(parts)


def too_long(limit: int) -> RefusedError:
    """The refusal of a body of more than `limit` bytes."""
    return RefusedError(
        413, f"the body is longer than {limit} bytes (--max-body); send fewer rows at a time"
    )


def decompress(body: bytes, coding: bytes, limit: int) -> bytes:
    """A body whose Content-Encoding is gzip or deflate.

    Raises
    ------
    RefusedError
        415: another coding; 413: more than `limit` bytes come out; 400: the data are damaged.
    """
    coding = coding.strip().lower()
    if coding == b"identity":
        return body
    if coding not in _WINDOWS:
        raise RefusedError(
            415,
            f"Content-Encoding is {coding.decode('latin-1')!r}; use gzip or deflate, or none",
            (b"accept-encoding", b"gzip, deflate"),
        )
    stream = zlib.decompressobj(_WINDOWS[coding])
    try:
        whole = stream.decompress(body, limit + 1)
    except zlib.error as error:
        raise invalid(f"the body is not {coding.decode()}: {error}") from None
    if len(whole) > limit:
        raise too_long(limit)
    if not stream.eof:
        raise invalid(f"the {coding.decode()} body ends too early")
    if stream.unused_data:
        raise invalid(f"{len(stream.unused_data)} bytes follow the {coding.decode()} body")
    return whole


def coding_for(accepted: bytes, length: int) -> bytes | None:
    """How to compress an answer of `length` bytes, given Accept-Encoding; None: not at all."""
    if length < LEAST:
        return None
    words = [word.strip().lower() for word in accepted.split(b",")]
    return next((coding for coding in _WINDOWS if coding in words), None)


def compress(body: bytes, coding: bytes) -> bytes:
    """A body in gzip or deflate, with zlib's fastest level."""
    stream = zlib.compressobj(1, wbits=_WINDOWS[coding])
    return stream.compress(body) + stream.flush()
