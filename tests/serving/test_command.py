"""The command `robe serve`: what it refuses, and what it says."""

import gc
import http.client
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from tests.serving.servers import request, rows, serving
from tests.support.commands import assert_refused
from tests.support.needs import SERVE, need

need(*SERVE)


@pytest.fixture
def token(tmp_path):
    path = tmp_path / "token.txt"
    path.write_text("0123456789abcdef")
    return path


def test_what_cannot_be_served_is_one_sentence(robe, run, tmp_path, token):
    (tmp_path / "empty").mkdir()
    serve = ("serve", "--port", 0)
    assert_refused(robe(*serve, tmp_path / "empty"), "empty has no config.json")
    assert_refused(robe(*serve, tmp_path / "none"), "none", "robe train")
    assert_refused(robe(*serve, run, f"other/{run.name}"), f"two runs have the name '{run.name}'")
    assert_refused(robe(*serve, f"a b={run}"), "the name 'a b' does not fit")
    assert_refused(robe(*serve, run, "--max-body", "much"), "'much'")
    unknown = ("--host", "no.such.host.invalid", "--token-file", token)
    assert_refused(robe(*serve, run, *unknown), "choose another --host")
    for path in (tmp_path / "none", tmp_path):
        assert_refused(robe(*serve, run, "--token-file", path), f"cannot read the token in {path}")
    for text in ("", "short", "two words of 16 letters", "é" * 20):
        token.write_text(text)
        assert_refused(robe(*serve, run, "--token-file", token), "has no token", "openssl rand")


@pytest.mark.parametrize(
    "options",
    [
        ("--port", "65536"),
        ("--workers", "0"),
        ("--threads", "0"),
        ("--max-batch", "0"),
        ("--max-delay-ms", "-1"),
        ("--queue", "0"),
        ("--timeout", "0"),
    ],
)
def test_numbers_out_of_range_are_refused(robe, run, options):
    status, text = robe("serve", run, *options)
    assert status == 2
    assert f"Invalid value for '{options[0]}'" in text


@pytest.mark.parametrize("workers", [1, 2])
def test_a_port_that_is_taken_is_refused(robe, run, workers):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = robe("serve", run, "--port", port, "--workers", workers)
    assert_refused(result, f"cannot listen at 127.0.0.1 port {port}", "already in use")


@pytest.fixture
def as_before():
    """Sets back what a server sets of its process."""
    interval = sys.getswitchinterval()
    yield
    sys.setswitchinterval(interval)
    gc.unfreeze()


def test_a_port_that_another_server_takes_meanwhile_is_refused(run, as_before):
    from robe_numba.serving.server.metrics import Counters
    from robe_numba.serving.server.running import Service
    from robe_numba.serving.server.running import run as serve

    with socket.socket() as first, socket.socket() as second:
        for listener in (first, second):  # both are bound before one of them listens
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        first.bind(("127.0.0.1", 0))
        second.bind(first.getsockname())
        first.listen()
        said = []
        with pytest.raises(OSError, match=r"cannot listen at 127\.0\.0\.1 port \d+: .* in use"):
            serve(Service({"m": run}), second, Counters(["m"]), lambda: said.append("ready"))
        assert said == []


def test_a_worker_that_cannot_start_ends_all(run, tmp_path):
    command = [sys.executable, "-m", "robe_numba", "serve", "--port", "0", "--workers", "2"]
    done = subprocess.run([*command, tmp_path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "has no config.json" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("missing", ["uvicorn", "httptools", "uvloop"])
def test_a_missing_package_is_named_with_its_extra(run, missing):
    code = f"import sys\nsys.modules[{missing!r}] = None\nfrom robe_numba.cli import main\nmain()"
    command = [sys.executable, "-c", code, "serve", run]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "pip install 'robe-numba[serve]'" in line


def test_a_host_that_others_reach_without_a_token_is_warned_of(run):
    with serving(f"m={run}", "--host", "0.0.0.0") as server:
        assert server.wait_for("warning: anyone who reaches 0.0.0.0 can use this server")


def test_quiet_is_quiet_and_threads_score_alike(run, scorer, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "robe_numba", "serve", f"m={run}", "--port", str(port)]
    command += ["--quiet", "--threads", "1", "--max-delay-ms", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        for _ in range(600):
            with socket.socket() as tried:
                if tried.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("POST", "/v2/models/m/infer", request(*rows(scorer, 2)))
        assert connection.getresponse().status == 200
        connection.close()
    finally:
        os.kill(process.pid, signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
    assert (process.returncode, output) == (0, b"")
