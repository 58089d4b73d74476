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
    """A run of three dense columns and two of ids, its ONNX model, and a run with lists."""
    made = tmp_path_factory.mktemp("guide")
    numbers = np.random.default_rng(0).integers(0, 100, (600, 5))
    lines = [",".join(map(str, [row[0] % 2, *row])) for row in numbers]
    (made / "log.csv").write_text("\n".join(["clicked,a,b,c,x,y", *lines]))
    ingest(made / "log.csv", made / "data", schema=Schema("clicked", tuple("abc"), tuple("xy")))
    train(Dataset(made / "data"), small_config(batch_size=64), made / "run")
    export_run(made / "run", made / "model.onnx")
    lines = [f"{k % 9},{k % 7},{k % 2},Drama|Children,{k % 5}|{k},4.5|2" for k in range(300)]
    (made / "films.csv").write_text("\n".join(["userId,movieId,liked,genres,seen,stars", *lines]))
    schema = Schema("liked", (), ("userId", "movieId"), ("genres", "seen"), (None, "stars"))
    ingest(made / "films.csv", made / "films-data", schema=schema, list_separator="|")
    train(Dataset(made / "films-data"), small_config(batch_size=64), made / "films")
    return made


def test_python_scores_alike_everywhere(folder, capsys):
    first, texts, over_http, lists, lists_over_http, by_onnx = blocks("python")
    names = {"__name__": "guide"}

    def execute(block):
        exec(compile(block, str(GUIDE), "exec"), names)

    with chdir(folder), serving("run", "films") as server:
        for block in (first, over_http.replace(ADDRESS, f"{server.host}:{server.port}")):
            execute(block)
        wanted = names["probability"]
        assert capsys.readouterr().out == f"{wanted}\n"
        execute(by_onnx)
        np.testing.assert_allclose(names["probability"], wanted, rtol=0, atol=1e-6)
        for block in (texts, lists, lists_over_http):
            execute(block)
        assert names["probability"].shape == (2,)
        assert capsys.readouterr().out == f"{names['probability']}\n"


def test_the_ids_of_texts():
    names = {}
    exec(compile(blocks("python")[1], str(GUIDE), "exec"), names)
    hashed = [
        int.from_bytes(blake2b(text, digest_size=8).digest(), "little", signed=True)
        for text in (b"news", b"phone", b"shop")
    ]
    np.testing.assert_array_equal(names["ids"], [[*hashed[:2], 17], [hashed[2], 0, 4]])


def test_the_requests_of_curl(folder):
    commands = [block for block in blocks("sh") if block.startswith("curl")]
    assert len(commands) == 2
    with serving(folder / "run", folder / "films") as server:
        for command, name in zip(commands, ("run", "films"), strict=True):
            there = command.replace("localhost:8000", f"{server.host}:{server.port}")
            done = subprocess.run(["bash", "-c", there], capture_output=True, check=True)
            (sent,) = re.findall(r"'(\{.*\})'", command, re.DOTALL)
            given = {tensor["name"]: tensor["data"] for tensor in json.loads(sent)["inputs"]}
            rows = [np.array([given.get("dense", [])], np.float64), np.array([given["ids"]])]
            if name == "films":
                weights = np.array(given["weights"], np.float32)
                rows.append((np.array(given["values"]), np.array([given["lengths"]]), weights))
            wanted = Scorer(folder / name)(*rows)
            np.testing.assert_array_equal(probability(done.stdout), wanted)
