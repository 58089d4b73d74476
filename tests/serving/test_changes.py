"""Servers that change under load: reloads, signals, several processes. No request is lost."""

import contextlib
import http.client
import json
import os
import shutil
import signal
import threading
import time

import numpy as np
import pytest

from tests.serving.servers import WAIT, ask, probability, request, rows, serving
from tests.support.needs import SERVE, need

need(*SERVE)

from prometheus_client.parser import text_string_to_metric_families

INFER = "/v2/models/m/infer"


class Load:
    """Threads that send one row after the other, each on its own connection, and check answers."""

    def __init__(self, server, *scorers, threads=8, count=64):
        self.server, self.scorers = server, {scorer.version: scorer for scorer in scorers}
        self.dense, self.ids = rows(scorers[0], count)
        self.bodies = [request(self.dense[k : k + 1], self.ids[k : k + 1]) for k in range(count)]
        self.wanted = {v: scorer(self.dense, self.ids) for v, scorer in self.scorers.items()}
        self.versions, self.refused, self.lost, self.wrong = [], [], [], []
        self.sent, self._ended = 0, threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(k,)) for k in range(threads)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error):
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _run(self, row):
        while not self._ended.is_set():
            with contextlib.closing(self.server.connection()) as connection:
                try:
                    connection.connect()
                except OSError:  # it listens no more: nothing was sent
                    return
                while not self._ended.is_set():
                    row = (row + 8) % len(self.bodies)
                    try:
                        status, headers, body = ask(connection, "POST", INFER, self.bodies[row])
                    except (OSError, http.client.HTTPException) as error:
                        self.lost.append(error)
                        return
                    if status != 200:
                        self.refused.append((status, json.loads(body)["error"]))
                        return
                    self._check(row, json.loads(body)["model_version"], probability(body))
                    if headers["connection"] == "close":
                        break  # the next one on a new connection, if it still listens

    def _check(self, row, version, scores):
        self.versions.append(version)
        if list(scores) != [self.wanted[version][row]]:
            self.wrong.append((row, version, scores))


@pytest.fixture(scope="module")
def scorers(run, other_run):
    from robe_numba.serving import Scorer

    return Scorer(run), Scorer(other_run)


def test_a_run_is_replaced_while_requests_flow(run, other_run, scorers, tmp_path):
    folder = shutil.copytree(run, tmp_path / "m")
    with serving(folder) as server, Load(server, *scorers) as load:
        for turn, source in enumerate([other_run, run], 1):
            shutil.copytree(source, tmp_path / "new")
            folder.rename(tmp_path / f"old{turn}")
            (tmp_path / "new").rename(folder)
            server.wait_for("m is reloaded", turn)
            time.sleep(0.2)
        (folder / "config.json").write_text("{")
        server.wait_for("m is not reloaded")
        time.sleep(0.2)
        load.__exit__()
        assert (load.lost, load.refused, load.wrong) == ([], [], [])
        assert set(load.versions) == {scorer.version for scorer in scorers}
        assert load.versions[-1] == scorers[0].version
        text = server.ask("GET", "/metrics")[2].decode()
        assert 'robe_reloads_total{model="m",result="loaded"} 2.0' in text
        assert 'robe_reloads_total{model="m",result="refused"} 1.0' in text
        assert f'robe_model_info{{model="m",version="{scorers[0].version}"}} 1.0' in text
        assert server.end() == 0


@pytest.mark.parametrize(
    ("workers", "number"), [(1, signal.SIGTERM), (1, signal.SIGINT), (2, signal.SIGTERM)]
)
def test_a_signal_under_load_loses_no_request(run, scorers, workers, number):
    with serving(f"m={run}", "--workers", workers) as server:
        with Load(server, scorers[0]) as load:
            time.sleep(0.5)
            assert server.end(number) == 0
        assert (load.lost, load.wrong) == ([], [])
        assert len(load.versions) > 8
        assert {*load.refused} <= {(503, "the server is shutting down")}
        assert [line for line in server.lines if "ready after" not in line] == []


def test_a_request_that_is_half_sent_is_finished(run, scorers):
    dense, ids = rows(scorers[0], 1)
    body = request(dense, ids)
    head = b"POST /v2/models/m/infer HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body)
    with serving(f"m={run}") as server:
        raw = server.send(head + body[:50])
        time.sleep(0.2)
        server.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + WAIT
        while server.ask("GET", "/v2/health/ready")[0] == 200:  # until it takes no new work
            assert time.monotonic() < deadline
        assert server.ask("POST", INFER, body)[0] == 503
        assert server.ask("GET", "/v2/health/live")[0] == 200
        time.sleep(1)  # longer than new work is refused with an answer
        raw.sendall(body[50:])
        with contextlib.closing(raw):
            answer = b"".join(iter(lambda: raw.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 200 ")
        np.testing.assert_array_equal(
            probability(answer.partition(b"\r\n\r\n")[2]), scorers[0](dense, ids)
        )
        assert server.process.wait(WAIT) == 0


def samples(server):
    text = server.ask("GET", "/metrics")[2].decode()
    return {
        (sample.name, sample.labels.get("code")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.labels.get("model") == "m"
    }


def children(server):
    with open(f"/proc/{server.process.pid}/task/{server.process.pid}/children") as file:
        return [int(number) for number in file.read().split()]


def workers_of(server):
    """Processes of workers; multiprocessing has another one, which tracks resources."""
    found = []
    for number in children(server):
        with open(f"/proc/{number}/cmdline", "rb") as file:
            if b"spawn_main" in file.read():
                found.append(number)
    return found


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="needs Linux's /proc")
def test_two_workers_count_together_and_end_together(run, scorers):
    dense, ids = rows(scorers[0], 3)
    body = request(dense, ids)
    with serving(f"m={run}", "--workers", 2) as server:
        for _ in range(40):  # each on a connection of its own, so that both get some
            status, _, answer = server.ask("POST", INFER, body)
            assert status == 200
            np.testing.assert_array_equal(probability(answer), scorers[0](dense, ids))
        for _ in range(5):  # whoever answers
            found = samples(server)
            assert found["robe_requests_total", "200"] == 40
            assert found["robe_rows_total", None] == 120
        first, second = workers_of(server)
        os.kill(first, signal.SIGKILL)
        assert server.process.wait(WAIT) == 1
        assert "error: a worker ended" in server.lines[-1]
        assert not os.path.exists(f"/proc/{second}")


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="needs Linux's /proc")
def test_workers_end_with_a_parent_that_is_killed(run):
    with serving(f"m={run}", "--workers", 2) as server:
        numbers = workers_of(server)
        server.process.kill()
        deadline = time.monotonic() + WAIT
        while any(is_running(number) for number in numbers):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def is_running(number):
    try:
        with open(f"/proc/{number}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
