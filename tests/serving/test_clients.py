"""NVIDIA's own client of the protocol against a running server."""

import numpy as np
import pytest

from tests.serving.servers import rows, serving
from tests.support.needs import SERVE, need

need(*SERVE, "tritonclient")

from tritonclient import http as triton
from tritonclient.utils import InferenceServerException


@pytest.fixture(scope="module")
def server(run):
    with serving(f"m={run}") as running:
        yield running


@pytest.fixture
def client(server):
    with triton.InferenceServerClient(f"{server.host}:{server.port}") as made:
        yield made


def inputs(dense, ids, binary=True):
    types = {"float32": "FP32", "float64": "FP64"}
    made = [
        triton.InferInput("dense", dense.shape, types[dense.dtype.name]),
        triton.InferInput("ids", ids.shape, ids.dtype.name.upper()),
    ]
    made[0].set_data_from_numpy(dense, binary)
    made[1].set_data_from_numpy(ids, binary)
    return made


def test_the_server_is_live_ready_and_described(client, scorer):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("m")
    assert client.is_model_ready("m", scorer.version)
    assert not client.is_model_ready("n")
    assert client.get_server_metadata()["name"] == "robe_numba"
    metadata = client.get_model_metadata("m")
    assert metadata["versions"] == [scorer.version]
    assert [tensor["name"] for tensor in metadata["inputs"]] == ["dense", "ids"]


@pytest.mark.parametrize("count", [1, 300])
@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
@pytest.mark.parametrize("sent", [None, "gzip", "deflate"])
@pytest.mark.parametrize("received", [None, "gzip", "deflate"])
def test_scores_by_json_and_binary_tensors(client, scorer, count, binary, sent, received):
    dense, ids = rows(scorer, count)
    if not binary:
        dense = np.nan_to_num(dense)  # this client writes NaN, which is not JSON
    outputs = [triton.InferRequestedOutput("probability", binary_data=binary)]
    result = client.infer(
        "m",
        inputs(dense, ids, binary),
        outputs=outputs,
        request_id="7",
        request_compression_algorithm=sent,
        response_compression_algorithm=received,
    )
    scores = result.as_numpy("probability")
    assert scores.dtype == np.float32
    assert scores.shape == (count,)
    np.testing.assert_array_equal(scores, scorer(dense, ids))
    answer = result.get_response()
    assert (answer["id"], answer["model_version"]) == ("7", scorer.version)


@pytest.mark.parametrize("dense_type", [np.float32, np.float64])
@pytest.mark.parametrize("id_type", [np.int64, np.uint64, np.int32, np.uint32])
def test_all_types_without_outputs_that_are_asked_for(client, scorer, dense_type, id_type):
    dense, ids = rows(scorer, 3)
    dense, ids = dense.astype(dense_type), ids.astype(id_type)
    scores = client.infer("m", inputs(dense, ids)).as_numpy("probability")
    np.testing.assert_array_equal(scores, scorer(dense, ids))


def test_errors_arrive(client, scorer):
    dense, ids = rows(scorer, 3)
    with pytest.raises(InferenceServerException, match=r"it must be \[rows, 26\]") as caught:
        client.infer("m", inputs(dense, ids[:, :5].copy()))
    assert caught.value.status() == "400"
    dense[1, 2] = np.inf
    with pytest.raises(InferenceServerException, match="dense has inf, which is not finite"):
        client.infer("m", inputs(dense, ids))
    with pytest.raises(InferenceServerException, match="there is no model 'n'"):
        client.infer("n", inputs(dense, ids))
    with pytest.raises(InferenceServerException, match="has no version '1'"):
        client.infer("m", inputs(dense, ids), model_version="1")


def test_many_requests_at_a_time(server, scorer):
    dense, ids = rows(scorer, 400)
    wanted = scorer(dense, ids)
    with triton.InferenceServerClient(f"{server.host}:{server.port}", concurrency=20) as client:
        pending = [
            client.async_infer("m", inputs(dense[k : k + 1], ids[k : k + 1])) for k in range(400)
        ]
        scores = [answer.get_result().as_numpy("probability")[0] for answer in pending]
    np.testing.assert_array_equal(scores, wanted)
