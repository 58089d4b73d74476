"""`robe serve` as a process on a free port, and plain HTTP to talk to it."""

import contextlib
import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import threading

import numpy as np

WAIT = 60  # seconds for anything, on a machine that is busy
# `robe`, with a server that looks for changes ten times as often.
QUICKLY = """
if __name__ == "__main__":
    from robe_numba.cli import main
    from robe_numba.serving.server import connections, models
    models.POLL_SECONDS = connections.SWEEP_SECONDS = 0.1
    main()
"""


class Serving:
    """A running server."""

    def __init__(self, *arguments):
        command = [sys.executable, "-W", "error", "-c", QUICKLY, "serve", "--port", "0"]
        self.process = subprocess.Popen(
            [*command, *map(str, arguments)], stderr=subprocess.PIPE, text=True
        )
        self.lines, self._changed = [], threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        found = re.search(r"http://(.*):(\d+) serves", self.wait_for("ready after"))
        self.host, self.port = found[1].strip("[]"), int(found[2])

    def _read(self):
        for line in self.process.stderr:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    def wait_for(self, words, count=1):
        """The line of stderr that has these words, the first or a later one."""

        def found():
            return [line for line in self.lines if words in line][count - 1 : count]

        with self._changed:
            self._changed.wait_for(lambda: found() or not self._reader.is_alive(), WAIT)
            assert found(), self.lines
            return found()[0]

    def end(self, number=signal.SIGTERM):
        """Send a signal; the exit status."""
        self.process.send_signal(number)
        status = self.process.wait(WAIT)
        self._reader.join(WAIT)
        return status

    def ask(self, method, path, body=None, **headers):
        """Status, headers and body of an answer on a connection of its own."""
        with contextlib.closing(self.connection()) as connection:
            return ask(connection, method, path, body, **headers)

    def connection(self):
        return http.client.HTTPConnection(self.host, self.port, timeout=WAIT)

    def send(self, content):
        """Raw bytes on a new socket."""
        raw = socket.create_connection((self.host, self.port), timeout=WAIT)
        raw.sendall(content)
        return raw


def ask(connection, method, path, body=None, **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body, named)
    answer = connection.getresponse()
    return answer.status, answer.headers, answer.read()


@contextlib.contextmanager
def serving(*arguments):
    """A server that is ended with the block."""
    server = Serving(*arguments)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
        server.process.wait(WAIT)
        server.process.stderr.close()


def rows(scorer, count, seed=0):
    """Random raw rows, a tenth of the dense ones missing."""
    random = np.random.default_rng(seed)
    dense = random.integers(0, 1000, (count, scorer.num_dense)).astype(np.float32)
    dense[random.random(dense.shape) < 0.1] = np.nan
    return dense, random.integers(-(2**63), 2**63, (count, scorer.num_tables))


def tensors(dense, ids):
    """The body of a request in JSON."""
    numbers = [[None if np.isnan(x) else float(x) for x in row] for row in dense]
    return {
        "inputs": [
            {"name": "dense", "datatype": "FP32", "shape": list(dense.shape), "data": numbers},
            {"name": "ids", "datatype": "INT64", "shape": list(ids.shape), "data": ids.tolist()},
        ]
    }


def request(dense, ids):
    return json.dumps(tensors(dense, ids)).encode()


def probability(body):
    (output,) = json.loads(body)["outputs"]
    return np.array(output["data"], np.float32)
