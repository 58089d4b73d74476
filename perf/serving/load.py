"""Requests to a server by wrk, from several connections at a time."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np

from perf.serving.runs import Served

BODIES = 64  # different requests, which every connection sends in turn
HEADER = "Inference-Header-Content-Length"
# wrk calls `request` for each request, and `done` at the end; times are in microseconds.
SCRIPT = """
local bodies, number = {}, 0
function init()
    for i = 0, %(bodies)d - 1 do
        local file = io.open("%(folder)s/" .. i, "rb")
        bodies[i] = wrk.format("POST", nil, {%(headers)s}, file:read("*a"))
        file:close()
    end
end
function request()
    number = (number + 1) %% %(bodies)d
    return bodies[number]
end
function done(summary, latency, requests)
    local errors = summary.errors
    io.write(string.format(
        "RESULT %%d %%d %%f %%f %%d\\n", summary.requests, summary.duration,
        latency:percentile(50), latency:percentile(99),
        errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
"""


@dataclass(frozen=True)
class Load:
    """What a server did under load."""

    requests_per_second: float
    p50: float  # milliseconds
    p99: float


@contextmanager
def serving(run: Path, *options: object) -> Iterator[tuple[str, float]]:
    """A server of a run on a free port; its address, and how many seconds it took to be ready."""
    command = [sys.executable, "-m", "robe_numba", "serve", str(run), "--port", "0"]
    began = time.perf_counter()
    process = subprocess.Popen([*command, *map(str, options)], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        line = next((each for each in process.stderr if "http://" in each), None)
        if line is None:
            raise RuntimeError(f"the server ended with {process.wait()}")
        url = re.search(r"http://[\w.:]+", line)
        assert url is not None
        with urlopen(f"{url[0]}/v2/health/ready") as answer:
            answer.read()
        yield url[0], time.perf_counter() - began
    finally:
        process.send_signal(signal.SIGTERM)
        process.stderr.close()
        process.wait()


def write_requests(served: Served, folder: Path, rows: int, binary: bool) -> dict[str, str]:
    """Write the bodies of requests into a folder; their headers."""
    folder.mkdir()
    header: dict[str, str] = {}
    for number in range(BODIES):
        dense, ids = served.dense(rows, number), served.ids(rows, number)
        body, header = encoded(dense, ids, binary)
        (folder / str(number)).write_bytes(body)
    return header


def encoded(dense: np.ndarray, ids: np.ndarray, binary: bool) -> tuple[bytes, dict[str, str]]:
    """A request of the Open Inference Protocol, and its headers."""
    inputs: list[dict[str, Any]] = [
        {"name": name, "shape": list(array.shape), "datatype": datatype}
        for name, array, datatype in (("dense", dense, "FP32"), ("ids", ids, "INT64"))
    ]
    if not binary:
        for tensor, array in zip(inputs, (dense, ids), strict=True):
            tensor["data"] = array.reshape(-1).tolist()
        return json.dumps({"inputs": inputs}).encode(), {"Content-Type": "application/json"}
    for tensor, array in zip(inputs, (dense, ids), strict=True):
        tensor["parameters"] = {"binary_data_size": array.nbytes}
    content = {"inputs": inputs, "parameters": {"binary_data_output": True}}
    head = json.dumps(content).encode()
    headers = {"Content-Type": "application/octet-stream", HEADER: str(len(head))}
    return head + dense.tobytes() + ids.tobytes(), headers


def ask(url: str, name: str, dense: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """The scores of one request."""
    body, headers = encoded(dense, ids, binary=False)
    request = Request(f"{url}/v2/models/{name}/infer", body, headers)
    with urlopen(request) as answer:
        (output,) = json.load(answer)["outputs"]
    return np.array(output["data"], np.float32)


def load(
    url: str, name: str, bodies: Path, headers: dict[str, str], connections: int, seconds: int
) -> Load:
    """Ask a server for some seconds; RuntimeError if a request fails, or without wrk."""
    script = bodies.with_suffix(".lua")
    pairs = ", ".join(f'["{key}"] = "{value}"' for key, value in headers.items())
    script.write_text(SCRIPT % {"folder": bodies, "bodies": BODIES, "headers": pairs})
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script)]
    address = f"{url}/v2/models/{name}/infer"
    try:
        done = subprocess.run([*command, address], capture_output=True, text=True, check=True)
    except FileNotFoundError:
        raise RuntimeError("the load is made by wrk; install it (Debian's package wrk)") from None
    found = re.search(r"RESULT (\d+) (\d+) ([\d.]+) ([\d.]+) (\d+)", done.stdout)
    if found is None or int(found[5]):
        raise RuntimeError(f"requests failed: {done.stdout}")
    requests, microseconds, p50, p99 = map(float, found.groups()[:4])
    return Load(1e6 * requests / microseconds, p50 / 1e3, p99 / 1e3)
