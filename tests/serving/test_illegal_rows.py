"""Rows that a model cannot take fail the request that has them, and no other in its batch."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.serving.servers import request, serving, tensors
from tests.support.needs import SERVE, need
from tests.training.runs import small_config

need(*SERVE)


@pytest.fixture(scope="module")
def server(dataset, tmp_path_factory):
    """Of a run whose hash takes ids of 32 bits, and whose dense features stay as they are."""
    from data_tools import Dataset, ingest
    from robe_numba.training import train

    folder = tmp_path_factory.mktemp("numbered")
    ingest(dataset.path.parent / "clicks.tsv", folder / "data", dense_transform="none")
    settings = small_config(hash="uma", sign=False, lr=1e-4)
    run = train(Dataset(folder / "data"), settings, folder / "run").path
    with serving(f"m={run}", "--max-delay-ms", "20") as running:
        yield running


def illegal_rows():
    dense, ids = np.zeros((1, 13), np.float32), np.full((1, 26), 2**32)
    yield request(dense, ids)
    content = tensors(dense, ids % 2**32)
    content["inputs"][0] |= {"datatype": "FP64", "data": [1e300] * 13}
    yield json.dumps(content).encode()


def test_others_are_scored(server):
    legal = request(np.ones((1, 13), np.float32), np.full((1, 26), 2**32 - 1))
    bodies = [legal, *illegal_rows(), legal] * 25

    def ask(body):
        return server.ask("POST", "/v2/models/m/infer", body)

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, bodies))
    assert [status for status, _, _ in answers] == [200, 400, 400, 200] * 25
    assert b"legal ids are 0 to 4294967295" in answers[1][2]
    assert b"must be finite, in float32 too" in answers[2][2]
