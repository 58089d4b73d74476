"""The guide to serving, block by block."""

import json
import re
import subprocess
from contextlib import chdir
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest

from tests.serving.servers import probability, serving
from tests.support.needs import ONNX, SERVE, need
from tests.training.runs import small_config

need(*SERVE, *ONNX, "tritonclient")

from data_tools import Dataset, Schema, ingest
from robe_numba.onnx import export_run
from robe_numba.serving import Scorer
from robe_numba.training import train

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "serving.md"
ADDRESS = "127.0.0.1:8000"


def blocks(language):
    text = GUIDE.read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a run of three dense columns and two of ids, and its ONNX model."""
    made = tmp_path_factory.mktemp("guide")
    numbers = np.random.default_rng(0).integers(0, 100, (600, 5))
    lines = [",".join(map(str, [row[0] % 2, *row])) for row in numbers]
    (made / "log.csv").write_text("\n".join(["clicked,a,b,c,x,y", *lines]))
    ingest(made / "log.csv", made / "data", schema=Schema("clicked", tuple("abc"), tuple("xy")))
    train(Dataset(made / "data"), small_config(batch_size=64), made / "run")
    export_run(made / "run", made / "model.onnx")
    return made


def test_python_scores_alike_everywhere(folder, capsys):
    first, _, over_http, by_onnx = blocks("python")
    names = {"__name__": "guide"}
    with chdir(folder), serving("run") as server:
        for block in (first, over_http.replace(ADDRESS, f"{server.host}:{server.port}")):
            exec(compile(block, str(GUIDE), "exec"), names)
        wanted = names["probability"]
        assert capsys.readouterr().out == f"{wanted}\n"
        exec(compile(by_onnx, str(GUIDE), "exec"), names)
    np.testing.assert_allclose(names["probability"], wanted, rtol=0, atol=1e-6)


def test_the_ids_of_texts():
    names = {}
    exec(compile(blocks("python")[1], str(GUIDE), "exec"), names)
    hashed = [
        int.from_bytes(blake2b(text, digest_size=8).digest(), "little", signed=True)
        for text in (b"news", b"phone", b"shop")
    ]
    np.testing.assert_array_equal(names["ids"], [[*hashed[:2], 17], [hashed[2], 0, 4]])


def test_the_request_of_curl(folder):
    (command,) = (block for block in blocks("sh") if block.startswith("curl"))
    with serving(folder / "run") as server:
        there = command.replace("localhost:8000", f"{server.host}:{server.port}")
        done = subprocess.run(["bash", "-c", there], capture_output=True, check=True)
    (sent,) = re.findall(r"'(\{.*\})'", command, re.DOTALL)
    dense, ids = (np.array(tensor["data"]) for tensor in json.loads(sent)["inputs"])
    wanted = Scorer(folder / "run")(dense.astype(np.float64)[None], ids[None])
    np.testing.assert_array_equal(probability(done.stdout), wanted)
