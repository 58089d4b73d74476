"""A load generator for `robe serve`: requests over many connections at a time, as fast as they go.

    python -m perf.serving.client 127.0.0.1:8000 run --rows 1 --requests 10000

It sends the same bytes again and again, so almost all of its time is the server's. Each connection
has one request on its way.
"""

import argparse
import asyncio
import json
import time
import urllib.request
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Load:
    """What a run of requests measured."""

    requests: int
    rows: int
    seconds: float
    latencies: np.ndarray  # (requests,) seconds, sorted

    def quantile(self, share: float) -> float:
        """Seconds within which this share of the requests was answered."""
        return float(np.quantile(self.latencies, share))


def request_bytes(model: str, dense: np.ndarray, ids: np.ndarray, binary: bool) -> bytes:
    """A whole HTTP request for scores.

    Parameters
    ----------
    model : str
        Its name.
    dense : ndarray, (rows, num_dense) float32
        Finite.
    ids : ndarray, (rows, num_tables) int64
    binary : bool
        Whether tensors travel as bytes, in both directions; else as JSON.
    """
    tensors = [("dense", "FP32", dense), ("ids", "INT64", ids)]
    inputs = [
        {"name": name, "datatype": kind, "shape": list(array.shape)}
        | ({"parameters": {"binary_data_size": array.nbytes}} if binary else {})
        | ({} if binary else {"data": array.ravel().tolist()})
        for name, kind, array in tensors
    ]
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": binary}}).encode()
    tail = b"".join(array.tobytes() for _, _, array in tensors) if binary else b""
    lines = [f"POST /v2/models/{model}/infer HTTP/1.1", "Host: localhost"]
    if binary:
        lines.append(f"Inference-Header-Content-Length: {len(head)}")
    lines.append(f"Content-Length: {len(head) + len(tail)}")
    return "\r\n".join([*lines, "", ""]).encode() + head + tail


class _Client(asyncio.Protocol):
    """One connection, which sends the next request when an answer is whole."""

    transport: asyncio.Transport

    def __init__(self, request: bytes, shared: "_Shared"):
        self._request, self._shared, self._received = request, shared, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self._send()

    def _send(self) -> None:
        if self._shared.left == 0:
            self.transport.close()
            return
        self._shared.left -= 1
        self._start = time.perf_counter()
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end:
            return
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(body) < length:
            return
        if not head.startswith(b"HTTP/1.1 200 "):
            status = head.partition(b"\r\n")[0].decode()
            self._shared.fail(ValueError(f"the server answered {status}: {body[:200].decode()}"))
            self.transport.close()
            return
        self._shared.latencies.append(time.perf_counter() - self._start)
        self._received = b""
        self._send()

    def connection_lost(self, error: Exception | None) -> None:
        self._shared.close()


class _Shared:
    """What the connections of a load have in common."""

    def __init__(self, requests: int, connections: int):
        self.left, self._open = requests, connections
        self.latencies: list[float] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def fail(self, error: Exception) -> None:
        """End the load with an error."""
        if not self.done.done():
            self.done.set_exception(error)

    def close(self) -> None:
        """Count a connection that has ended; the last one ends the load."""
        self._open -= 1
        if self._open == 0 and not self.done.done():
            self.done.set_result(None)


async def load(
    host: str, port: int, request: bytes, rows: int, requests: int, connections: int
) -> Load:
    """Send a request again and again.

    Parameters
    ----------
    host, port
        Of the server.
    request : bytes
        From `request_bytes`, of `rows` rows.
    requests : int
        How often in all.
    connections : int
        How many are on their way at a time.

    Raises
    ------
    ValueError
        The server answered something else than scores.
    OSError
        It cannot be reached.
    """
    loop, shared = asyncio.get_running_loop(), _Shared(requests, connections)
    start = time.perf_counter()
    for _ in range(connections):
        await loop.create_connection(lambda: _Client(request, shared), host, port)
    await shared.done
    seconds, found = time.perf_counter() - start, np.sort(shared.latencies)
    if len(found) < requests:
        raise ValueError(f"only {len(found)} of {requests} requests were answered")
    return Load(requests, rows * requests, seconds, found)


def columns(host: str, port: int, model: str) -> tuple[int, int]:
    """The columns of `dense` and `ids` of a model that is served."""
    with urllib.request.urlopen(f"http://{host}:{port}/v2/models/{model}", timeout=10) as answer:
        inputs = json.load(answer)["inputs"]
    return inputs[0]["shape"][1], inputs[1]["shape"][1]


def main() -> None:
    """Print what a load measured."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("address", help="host:port")
    parser.add_argument("model")
    parser.add_argument("--rows", type=int, default=1, help="of a request")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--binary", action="store_true")
    given = parser.parse_args()
    host, _, port = given.address.rpartition(":")
    num_dense, num_tables = columns(host, int(port), given.model)
    random = np.random.default_rng(0)
    dense = random.integers(0, 1000, (given.rows, num_dense)).astype(np.float32)
    ids = random.integers(0, 2**32, (given.rows, num_tables))
    request = request_bytes(given.model, dense, ids, given.binary)
    arguments = (host, int(port), request, given.rows, given.requests, given.connections)
    try:
        import uvloop
    except ModuleNotFoundError:
        found = asyncio.run(load(*arguments))
    else:
        found = uvloop.run(load(*arguments))
    milliseconds = [1000 * found.quantile(share) for share in (0.5, 0.99, 1)]
    print(
        f"{found.requests / found.seconds:,.0f} requests/s, {found.rows / found.seconds:,.0f} "
        f"rows/s, p50 {milliseconds[0]:.2f} ms, p99 {milliseconds[1]:.2f} ms, most "
        f"{milliseconds[2]:.2f} ms"
    )


if __name__ == "__main__":
    main()
