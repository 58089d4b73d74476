"""Lists of ids over HTTP: the scores of `Scorer`, whatever is scored together."""

import contextlib
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from data_tools import Schema
from robe_numba.serving import Scorer
from robe_numba.training import train
from tests.serving.lists.rows import binary_body, list_tensors, part, raw_rows
from tests.serving.servers import ask, probability, serving
from tests.support.needs import SERVE, need
from tests.training.list_logs import make_dataset
from tests.training.runs import small_config

need(*SERVE, "tritonclient")

from tritonclient import http as triton

ALONE = Schema("click", (), (), ("genres", "seen"))
INFER = "/v2/models/{}/infer"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run with dense columns, ids and lists with weights, and one of lists alone."""
    folder = tmp_path_factory.mktemp("runs")
    settings = small_config("full", batch_size=50, lr=0.1, epochs=3)
    weighted = train(make_dataset(folder), settings, folder / "runs" / "weighted")
    alone = train(make_dataset(folder, ALONE), settings, folder / "runs" / "alone")
    return {"weighted": weighted.path, "alone": alone.path}


@pytest.fixture(scope="module")
def scorers(runs):
    return {name: Scorer(path) for name, path in runs.items()}


@pytest.fixture(scope="module")
def server(runs):
    with serving(*runs.values()) as running:
        yield running
        assert running.end() == 0
        assert running.lines[1:] == []


ROWS = {"weighted": raw_rows(range(600)), "alone": raw_rows(range(600), ALONE)}


def request(rows, binary=False):
    """A body and its headers."""
    if not binary:
        return json.dumps({"inputs": list_tensors(*rows)}).encode(), {}
    body, length = binary_body(*rows)
    return body, {"Inference_Header_Content_Length": str(length)}


def test_the_inputs_are_described(server):
    def fact(path):
        return json.loads(server.ask("GET", path)[2])

    listed = [
        {"name": "values", "datatype": "INT64", "shape": [-1]},
        {"name": "lengths", "datatype": "INT64", "shape": [-1, 2]},
    ]
    assert fact("/v2/models/weighted")["inputs"] == [
        {"name": "dense", "datatype": "FP32", "shape": [-1, 1]},
        {"name": "ids", "datatype": "INT64", "shape": [-1, 1]},
        *listed,
        {"name": "weights", "datatype": "FP32", "shape": [-1]},
    ]
    assert fact("/v2/models/alone")["inputs"][2:] == listed
    status = {model["name"]: model for model in fact("/status")}
    assert status["weighted"]["multi_hot"] == ["genres", "seen"]
    assert status["weighted"]["weights"] == [None, "seen_weights"]


@pytest.mark.parametrize("binary", [False, True], ids=["json", "binary"])
@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("count", [0, 1, 600])
def test_scores_are_those_of_the_scorer(server, scorers, name, binary, count):
    dense, ids, multi_hot = part(ROWS[name], 0, count)
    rows = dense.astype(np.float32), ids, multi_hot
    body, headers = request(rows, binary)
    status, _, answer = server.ask("POST", INFER.format(name), body, **headers)
    assert status == 200, answer
    np.testing.assert_array_equal(probability(answer), scorers[name](*rows))


@pytest.mark.parametrize("name", ROWS)
def test_rows_that_are_scored_together_are_scored_as_alone(server, scorers, name):
    dense, ids, multi_hot = ROWS[name]
    wanted = scorers[name](dense.astype(np.float32), ids, multi_hot)
    assert len(np.unique(wanted.round(4))) > 100  # rows can be told apart
    cuts = np.cumsum(np.random.default_rng(0).integers(0, 4, 400))
    cuts = [0, *cuts[cuts < 600].tolist(), 600]

    def client(number):
        with contextlib.closing(server.connection()) as connection:
            for k in range(number, len(cuts) - 1, 8):
                body, headers = request(part(ROWS[name], cuts[k], cuts[k + 1]), k % 2)
                found = ask(connection, "POST", INFER.format(name), body, **headers)
                assert found[0] == 200, found
                np.testing.assert_array_equal(probability(found[2]), wanted[cuts[k] : cuts[k + 1]])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(client, range(8)))


def test_triton_s_client_sends_lists(server, scorers):
    dense, ids, (values, lengths, weights) = part(ROWS["weighted"], 0, 50)
    arrays = {
        "dense": dense.astype(np.float32),
        "ids": ids,
        "values": values.astype(np.uint32),
        "lengths": lengths.astype(np.int32),
        "weights": weights,
    }
    kinds = {"float32": "FP32"}
    inputs = []
    for name, array in arrays.items():
        kind = kinds.get(array.dtype.name, array.dtype.name.upper())
        inputs.append(triton.InferInput(name, array.shape, kind).set_data_from_numpy(array))
    with triton.InferenceServerClient(f"{server.host}:{server.port}") as client:
        found = client.infer("weighted", inputs).as_numpy("probability")
    wanted = scorers["weighted"](arrays["dense"], ids, (values, lengths, weights))
    np.testing.assert_array_equal(found, wanted)


def changed(name, /, **fields):
    """Inputs of two rows with lengths [[1, 2], [0, 1]]: one without some fields, or with others."""
    inputs = [
        {"name": "dense", "datatype": "FP32", "shape": [2, 1], "data": [0, None]},
        {"name": "ids", "datatype": "INT64", "shape": [2, 1], "data": [3, 4]},
        {"name": "values", "datatype": "INT64", "shape": [4], "data": [1, 2, 3, 4]},
        {"name": "lengths", "datatype": "INT64", "shape": [2, 2], "data": [[1, 2], [0, 1]]},
        {"name": "weights", "datatype": "FP32", "shape": [4], "data": [1, 0.5, 2, 3]},
    ]
    if not fields:
        return [each for each in inputs if each["name"] != name]
    return [each | fields if each["name"] == name else each for each in inputs]


REFUSED = [
    (changed("values"), "the input values is missing"),
    (changed("lengths"), "the input lengths is missing"),
    (changed("weights"), "the input weights is missing"),
    (changed("dense"), "the input dense is missing"),
    (changed("ids", name="id"), "the inputs are dense, ids, values, lengths and weights"),
    (changed("values", shape=[4, 1]), "shape of values is [4, 1]; it must be [number of ids]"),
    (changed("values", shape=[-4]), "shape of values is [-4]"),
    (changed("values", shape=[5]), "shape of values is [5], but its data has 4 numbers"),
    (changed("values", data=[[1, 2, 3, 4]]), "Expected `int`, got `array`"),
    (changed("values", data=[1, 2, 3, 2**63]), "a number is outside its range"),
    (changed("values", data=[1, 2, 3, None]), "Expected `int`, got `null`"),
    (changed("values", datatype="BYTES"), "data_tools.text_ids"),
    (changed("values", shape=[3], data=[1, 2, 3]), "lengths[1, 1] is 1, but only 0 of the 3"),
    (changed("lengths", shape=[4], data=[1, 2, 0, 1]), "shape of lengths is [4]; it must be [rows"),
    (changed("lengths", shape=[2, 1], data=[1, 2]), "it must be [rows, 2]"),
    (changed("lengths", shape=[1, 2], data=[1, 3]), "lengths has 1 rows but ids has 2"),
    (changed("lengths", data=[1, 2, 0, 0]), "lengths add up to 3, but there are 4 values"),
    (changed("lengths", data=[-1, 2, 0, 3]), "lengths[0, 0] is -1, but a list has 0 ids or more"),
    (changed("lengths", data=[1, 2**63 - 1, 0, 1]), "is 9223372036854775807, but only 3 of"),
    (changed("lengths", datatype="FP32"), "datatype of lengths is 'FP32'"),
    (changed("weights", datatype="FP64"), "datatype of weights is 'FP64'; use FP32"),
    (changed("weights", data=[1, 1e39, 1, 1]), "weights has 1e+39, which is beyond float32"),
    (changed("weights", data=[1, None, 1, 1]), "Expected `float`, got `null`"),
    (changed("weights", data=[0.5, 1, 1, 1]), "weights[0] is 0.5, of genres; it must be 1"),
    (changed("weights", shape=[3], data=[1, 1, 1]), "weights has shape (3,); expected (4,)"),
]


@pytest.mark.parametrize(("inputs", "words"), REFUSED, ids=lambda part: str(part)[:60])
def test_what_is_wrong_is_said(server, inputs, words):
    status, _, body = server.ask("POST", INFER.format("weighted"), json.dumps({"inputs": inputs}))
    assert status == 400
    assert words in json.loads(body)["error"]


def test_what_is_right_is_scored(server):
    body = json.dumps({"inputs": changed("id")})
    assert server.ask("POST", INFER.format("weighted"), body)[0] == 200


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_binary_weights_are_finite(server, value):
    dense, ids, (values, lengths, weights) = part(ROWS["weighted"], 0, 40)
    weights = weights.copy()
    weights[-1] = value
    body, headers = request((dense, ids, (values, lengths, weights)), binary=True)
    status, _, answer = server.ask("POST", INFER.format("weighted"), body, **headers)
    assert status == 400
    assert f"{value}" in json.loads(answer)["error"]


def test_a_row_of_too_many_ids_is_refused_and_others_are_scored(server, scorers):
    """Which bounds the memory of a batch."""
    most = 1 << 17
    empty, ids = np.empty((2, 0), np.float32), np.empty((2, 0), np.int64)
    for count, expected in ((most + 1, 400), (most, 200)):
        lists = np.zeros(count + 1, np.int64), np.array([[1, 0], [0, count]]), None
        body, headers = request((empty, ids, lists), binary=True)
        status, _, answer = server.ask("POST", INFER.format("alone"), body, **headers)
        assert status == expected, answer
    wanted = scorers["alone"](empty, ids, lists)
    np.testing.assert_array_equal(probability(answer), wanted)
