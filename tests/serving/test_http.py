"""A running server, asked over plain HTTP: paths, errors, limits and slow clients."""

import contextlib
import gzip
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.serving.servers import WAIT, ask, probability, request, rows, serving, tensors
from tests.support.needs import SERVE, need

need(*SERVE)

from prometheus_client.parser import text_string_to_metric_families

from robe_numba.serving import Scorer

TIGHT = ("--max-body", "20kB", "--timeout", "1")


@pytest.fixture(scope="module")
def server(run):
    with serving(f"m={run}", *TIGHT) as running:
        yield running
        assert running.end() == 0
        assert running.lines[1:] == []


def error_of(answer, status):
    assert answer[0] == status, answer
    assert answer[1]["content-type"] == "application/json"
    content = json.loads(answer[2])
    assert list(content) == ["error"]
    return content["error"]


def test_the_protocol_says_what_is_served(server, scorer):
    def fact(path):
        status, _, body = server.ask("GET", path)
        assert status == 200
        return json.loads(body)

    assert fact("/v2")["extensions"] == ["binary_tensor_data"]
    assert fact("/v2/health/live") == {"live": True}
    assert fact("/v2/health/ready") == {"ready": True}
    for path in ("/v2/models/m", f"/v2/models/m/versions/{scorer.version}"):
        assert fact(path)["versions"] == [scorer.version]
        assert fact(f"{path}/ready") == {"name": "m", "ready": True}
    assert fact("/v2/models/m")["inputs"] == [
        {"name": "dense", "datatype": "FP32", "shape": [-1, 13]},
        {"name": "ids", "datatype": "INT64", "shape": [-1, 26]},
    ]
    assert server.ask("HEAD", "/v2/health/ready")[::2] == (200, b"")


@pytest.mark.parametrize("path", ["/v2/models/m/infer", "/v2/models/m/versions/{}/infer"])
def test_scores_are_those_of_the_scorer(server, scorer, path):
    dense, ids = rows(scorer, 7)
    body = json.dumps({**tensors(dense, ids), "id": "seven"}).encode()
    status, _, answer = server.ask("POST", path.format(scorer.version), body)
    assert status == 200
    np.testing.assert_array_equal(probability(answer), scorer(dense, ids))
    assert json.loads(answer)["id"] == "seven"
    assert json.loads(answer)["model_version"] == scorer.version


def test_answers_of_thousands_of_requests_are_their_own(server, scorer):
    dense, ids = rows(scorer, 3000)
    wanted = scorer(dense, ids)
    assert len(np.unique(wanted.round(5))) > 1000  # rows can be told apart

    def client(part):
        with contextlib.closing(server.connection()) as connection:
            for row in range(part, 3000, 16):
                body = request(dense[row : row + 1], ids[row : row + 1])
                status, _, answer = ask(connection, "POST", "/v2/models/m/infer", body)
                assert status == 200
                np.testing.assert_array_equal(probability(answer), wanted[row])

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(client, range(16)))


NUMBERS = b'{"inputs": [{"name": "ids", "shape": [1, 26], "datatype": "INT64", "data": []}]}'
BOMB = gzip.compress(bytes(10**7), mtime=0)
REFUSED = [
    ("GET", "/v3", None, {}, 404, "there is no path '/v3'"),
    ("GET", "/v2/", None, {}, 404, "there is no path"),
    ("GET", "/v2/models", None, {}, 404, "there is no path"),
    ("GET", "/v2/models/n", None, {}, 404, "there is no model 'n'; the models are m"),
    ("POST", "/v2/models/n/infer", b"{}", {}, 404, "there is no model 'n'"),
    ("GET", "/v2/models/m/versions/1", None, {}, 404, "m has no version '1'; it has "),
    ("POST", "/v2/models/m/versions/1/infer", b"{}", {}, 404, "m has no version '1'"),
    ("GET", "/v2/models/m/stats", None, {}, 404, "there is no path"),
    ("GET", "/v2/models/m/infer", None, {}, 405, "the method is GET; use POST"),
    ("PUT", "/v2/models/m/infer", b"{}", {}, 405, "the method is PUT; use POST"),
    ("POST", "/v2/models/m", b"{}", {}, 405, "the method is POST; use GET"),
    ("DELETE", "/metrics", None, {}, 405, "the method is DELETE; use GET"),
    ("POST", "/v2/models/m/infer", b"{}", {"Content_Type": "text/xml"}, 415, "'text/xml'"),
    ("POST", "/v2/models/m/infer", b"{}", {"Content_Encoding": "br"}, 415, "is 'br'"),
    ("POST", "/v2/models/m/infer", bytes(20_001), {}, 413, "longer than 20000 bytes"),
    ("POST", "/v2/models/m/infer", BOMB, {"Content_Encoding": "gzip"}, 413, "longer than 20000"),
    ("POST", "/v2/models/m/infer", b"text", {"Content_Encoding": "gzip"}, 400, "is not gzip"),
    ("POST", "/v2/models/m/infer", b"{}", {}, 400, "missing required field `inputs`"),
    ("POST", "/v2/models/m/infer", NUMBERS, {}, 400, "its data has 0 numbers"),
    ("POST", "/v2/models/m/infer", b"{}", {"Inference_Header_Content_Length": "9"}, 400, "2 bytes"),
    ("POST", "/v2/models/m/infer", b"{}", {"Inference_Header_Content_Length": "-1"}, 400, "'-1'"),
    ("POST", "/v2/models/m/infer", b"{}", {"Inference_Header_Content_Length": "9" * 99}, 400, "99"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status", "words"), REFUSED, ids=lambda x: str(x)[:30]
)
def test_what_is_wrong_is_said(server, method, path, body, headers, status, words):
    assert words in error_of(server.ask(method, path, body, **headers), status)
    assert server.ask("GET", "/v2/health/ready")[0] == 200


def chunked(*chunks):
    head = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: h\r\nConnection: close\r\n"
    head += b"Transfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)


def received(raw):
    """Everything until the server closes the connection."""
    with contextlib.closing(raw):
        return b"".join(iter(lambda: raw.recv(65536), b""))


def test_bodies_may_come_in_chunks(server, scorer):
    dense, ids = rows(scorer, 2)
    body = request(dense, ids)
    answer = received(server.send(chunked(body[:9], body[9:], b"")))
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    np.testing.assert_array_equal(probability(answer.partition(b"\r\n\r\n")[2]), scorer(dense, ids))
    answer = received(server.send(chunked(*[bytes(4000)] * 6, b"")))
    assert answer.startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"POST /v2/models/m/infer HTTP/1.1\r\nConnection: close\r\n\r\n", 411),
        (b"GET /v2 HTTP/9.9\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(50), 400),  # TLS
        (b"POST /v2/models/m/infer HTTP/1.1\r\nContent-Length: x\r\n\r\n", 400),
        (b"POST /v2/models/m/infer HTTP/1.1\r\nContent-Length: -5\r\n\r\n", 400),
        (b"POST /v2 HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\n\r\n", 400),
        (chunked(b"{}") + b"zz\r\n", 400),
    ],
)
def test_other_http_is_answered_too(server, content, status):
    answer = received(server.send(content))
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer
    assert b'{"error":' in answer


def test_slow_clients_are_not_waited_for(server):
    infer = b"POST /v2/models/m/infer HTTP/1.1\r\n"
    begun = [
        (b"", b""),
        (b"POST /v2/mod", b"HTTP/1.1 408 "),
        (infer + b"Host:", b"HTTP/1.1 408 "),
        (infer + b"Content-Length: 9\r\n\r\n", b"HTTP/1.1 408 "),
        (infer + b"Content-Length: 9\r\n\r\n{", b"HTTP/1.1 408 "),
        (b"GET /v2 HTTP/1.1\r\n\r\n", b"HTTP/1.1 200 "),  # an idle connection
    ]
    for raw, wanted in [(server.send(content), wanted) for content, wanted in begun]:
        answer = received(raw)  # ends, as the server closes the connection
        assert answer.startswith(wanted)
        assert wanted or answer == b""


def test_a_client_that_reads_nothing_is_cut_off(server):
    page = len(server.ask("GET", "/")[2])
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.settimeout(WAIT)
    raw.connect((server.host, server.port))
    raw.sendall(b"GET / HTTP/1.1\r\n\r\n" * 1500)
    time.sleep(2.5)  # the timeout is 1
    got = 0
    with contextlib.closing(raw), contextlib.suppress(ConnectionResetError):
        while part := raw.recv(1 << 16):
            got += len(part)
    assert got < 1500 * page / 2
    assert server.ask("GET", "/v2/health/ready")[0] == 200


HEADER = b"X: %s\r\n" % (b"a" * 995)  # 1000 bytes
INFER = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: h\r\n"


@pytest.mark.parametrize(
    "content",
    [
        b"GET /v2 HTTP/1.1\r\n" + HEADER * 400,
        b"GET /v2 HTTP/1.1\r\nX: " + bytes([97]) * 400_000,
        b"GET /" + bytes([97]) * 400_000,
        chunked(b"{}") + b"0\r\n" + HEADER * 400,
        chunked(b"{}") + b"1;" + bytes([97]) * 400_000,
    ],
    ids=["many", "long", "address", "trailers", "chunk"],
)
def test_headers_without_end_are_cut_off(server, content):
    raw = server.send(b"")
    with contextlib.suppress(ConnectionError):  # the server may have closed already
        raw.sendall(content)
        assert received(raw).startswith((b"HTTP/1.1 431 ", b"HTTP/1.1 400 "))
    assert server.ask("GET", "/v2/health/ready")[0] == 200


def test_long_headers_and_many_chunks_are_no_error(server):
    answer = received(server.send(b"GET /v2 HTTP/1.0\r\n" + HEADER * 60 + b"\r\n"))
    assert answer.startswith(b"HTTP/1.1 200 ")
    body = chunked(*[b" "] * 19_000, b"{}", b"")
    assert b"missing required field `inputs`" in received(server.send(body))


def test_a_client_that_has_sent_all_still_gets_its_answers(server, scorer):
    dense, ids = rows(scorer, 1)
    body = request(dense, ids)
    whole = INFER + b"Content-Length: %d\r\n\r\n" % len(body) + body
    for count in (1, 5):
        raw = server.send(whole * count)
        raw.shutdown(socket.SHUT_WR)
        assert received(raw).count(b"HTTP/1.1 200 OK") == count
    raw = server.send(whole[:-1])
    raw.shutdown(socket.SHUT_WR)
    assert received(raw) == b""


def test_pipelined_requests_are_answered_in_order(server):
    asked = b"GET /v2/health/live HTTP/1.1\r\n\r\nGET /nowhere HTTP/1.1\r\n\r\n"
    answer = received(server.send(asked + b"GET /v2 HTTP/1.1\r\nConnection: close\r\n\r\n"))
    places = [answer.index(words) for words in (b'"live"', b"/nowhere", b'"robe_numba"')]
    assert places == sorted(places)


def families(server):
    status, headers, body = server.ask("GET", "/metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain")
    found = {}
    for family in text_string_to_metric_families(body.decode()):
        for sample in family.samples:
            found[sample.name, *sorted(sample.labels.items())] = sample.value
    return found


def test_metrics_count_what_happens(server, scorer):
    def value(found, name, **labels):
        return found.get((name, *sorted({"model": "m", **labels}.items())), 0)

    before = families(server)
    dense, ids = rows(scorer, 5)
    assert server.ask("POST", "/v2/models/m/infer", request(dense, ids))[0] == 200
    assert server.ask("POST", "/v2/models/m/infer", b"{")[0] == 400
    after = families(server)
    for name, labels, more in [
        ("robe_requests_total", {"code": "200"}, 1),
        ("robe_requests_total", {"code": "400"}, 1),
        ("robe_rows_total", {}, 5),
        ("robe_batch_rows_count", {}, 1),
        ("robe_batch_rows_sum", {}, 5),
        ("robe_batch_rows_bucket", {"le": "4"}, 0),
        ("robe_batch_rows_bucket", {"le": "8"}, 1),
        ("robe_request_seconds_count", {}, 2),
        ("robe_request_seconds_bucket", {"le": "+Inf"}, 2),
    ]:
        grown = value(after, name, **labels) - value(before, name, **labels)
        assert grown == more, (name, labels)
    assert value(after, "robe_model_info", version=scorer.version) == 1
    assert value(after, "robe_model_bytes") == scorer.num_bytes
    assert value(after, "robe_queue_requests") == 0


def test_a_full_queue_answers_503_at_once(run, scorer):
    dense, ids = rows(scorer, 3000)
    large, small = request(dense, ids), request(dense[:1], ids[:1])
    with serving(f"m={run}", "--queue", 1, "--max-batch", 1, "--threads", 1) as running:
        done, answers = threading.Event(), []

        def keep_busy():
            with contextlib.closing(running.connection()) as connection:
                while not done.is_set():
                    answers.append(ask(connection, "POST", "/v2/models/m/infer", large))

        threads = [threading.Thread(target=keep_busy) for _ in range(4)]
        for thread in threads:
            thread.start()
        answers += [running.ask("POST", "/v2/models/m/infer", small) for _ in range(30)]
        done.set()
        for thread in threads:
            thread.join()
        refused = [answer for answer in answers if answer[0] != 200]
        assert 0 < len(refused) < len(answers)
        for answer in refused:
            assert "requests are waiting already (--queue)" in error_of(answer, 503)
            assert answer[1]["retry-after"] == "1"


def test_two_models_at_a_time(run, other_run, scorer):
    from robe_numba.serving import Scorer

    scorers = {"a": scorer, "b": Scorer(other_run)}
    dense, ids = rows(scorer, 200)
    wanted = {name: one(dense, ids) for name, one in scorers.items()}
    with serving(f"a={run}", f"b={other_run}") as running:

        def client(part):
            with contextlib.closing(running.connection()) as connection:
                for row in range(part, 200, 8):
                    name = "ab"[row // 8 % 2]
                    body = request(dense[row : row + 1], ids[row : row + 1])
                    status, _, answer = ask(connection, "POST", f"/v2/models/{name}/infer", body)
                    assert status == 200
                    np.testing.assert_array_equal(probability(answer), wanted[name][row])

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(client, range(8)))


def test_a_run_of_ids_alone(run_of_ids):
    from robe_numba.serving import Scorer

    ids = np.array([[7, -7], [2**40, 1000]])
    with serving(f"m={run_of_ids}") as running:
        tensor = tensors(np.empty((2, 0)), ids)
        for inputs in (tensor["inputs"], tensor["inputs"][1:]):
            body = json.dumps({"inputs": inputs}).encode()
            status, _, answer = running.ask("POST", "/v2/models/m/infer", body)
            assert status == 200, answer
            wanted = Scorer(run_of_ids)(np.empty((2, 0), np.float32), ids)
            np.testing.assert_array_equal(probability(answer), wanted)


def test_a_token_is_asked_for(run, scorer, tmp_path):
    path, token = tmp_path / "token", "0123456789abcdef"
    path.write_text(token + "\n")
    with serving(f"m={run}", "--token-file", path, "--host", "0.0.0.0") as running:
        for path in ("/v2/health/live", "/v2/health/ready"):
            assert running.ask("GET", path)[0] == 200
        right = {"Authorization": f"Bearer {token}"}
        wrong = [
            {},
            *(
                {"Authorization": text}
                for text in (token, "Bearer", "Bearer ", f"Bearer {token}x", f"Basic {token}")
            ),
        ]
        for path in ("/v2", "/metrics", "/status", "/v2/models/m", "/nowhere"):
            for headers in wrong:
                answer = running.ask("GET", path, **headers)
                assert "send the header Authorization: Bearer TOKEN" in error_of(answer, 401)
                assert answer[1]["www-authenticate"] == "Bearer"
            assert running.ask("GET", path, **right)[0] in (200, 404)
        assert running.ask("GET", "/v2", Authorization=f"bearer {token}")[0] == 200
        body = request(*rows(scorer, 1))
        assert running.ask("POST", "/v2/models/m/infer", body)[0] == 401
        assert running.ask("POST", "/v2/models/m/infer", body, **right)[0] == 200
        status, headers, body = running.ask("GET", "/")  # the page, to ask for it
        assert (status, headers["content-type"]) == (401, "text/html; charset=utf-8")
        assert b"<script>" in body
        assert running.end() == 0
        assert running.lines[1:] == []  # no warning of a host that others reach


def test_embeddings_in_fewer_bytes(run, scorer):
    stored = Scorer(run, storage="int8")
    dense, ids = rows(scorer, 20)
    with serving(run, "--storage", "int8") as server:
        _, _, answer = server.ask("POST", f"/v2/models/{run.name}/infer", request(dense, ids))
        _, _, metrics = server.ask("GET", "/metrics")
    np.testing.assert_array_equal(probability(answer), stored(dense, ids))
    assert f'robe_model_bytes{{model="{run.name}"}} {float(stored.num_bytes)}' in metrics.decode()
