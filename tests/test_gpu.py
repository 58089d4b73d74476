"""Functions of GPU arrays in Numba's simulator, on a machine without a GPU."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from data_tools import ingest
from robe_numba.dlrm import PRESETS
from robe_numba.training import RunFolder
from tests.gpu import tiny_training
from tests.support.needs import GPU, need

need(*GPU)

ROOT = Path(__file__).resolve().parent.parent


def run_simulated(*command):
    """Run Python with Numba's simulator, which must be switched on before Numba is imported."""
    environment = os.environ | {"NUMBA_ENABLE_CUDASIM": "1", "NUMBA_DISABLE_JIT": "1"}
    command = [sys.executable, *map(str, command)]
    finished = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout + finished.stderr


def test_everything_passes_in_the_simulator():
    options = ("-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider")
    run_simulated(*options, ROOT / "tests" / "gpu")


def columns_of(schema, rows):
    generator = np.random.default_rng(0)
    columns = {
        name: generator.integers(0, 9, rows) for name in (*schema.dense, *schema.categorical)
    }
    lengths = generator.integers(0, 4, rows)
    for name in schema.multi_hot:
        columns[name] = [generator.integers(0, 9, length).tolist() for length in lengths]
    for name in filter(None, schema.weights):
        columns[name] = [generator.random(length).tolist() for length in lengths]
    return columns | {"click": (generator.random(rows) < 0.4).astype(np.int64)}


@pytest.mark.parametrize(
    "schema", [tiny_training.SCHEMA, tiny_training.LISTS], ids=["ids", "lists"]
)
def test_a_run_on_the_gpu_is_that_of_the_host_within_rounding(tmp_path, monkeypatch, schema):
    monkeypatch.setitem(PRESETS, "kaggle", tiny_training.TINY)
    pq.write_table(pa.table(columns_of(schema, 60)), tmp_path / "log.parquet")
    ingest(tmp_path / "log.parquet", tmp_path / "data", schema=schema)
    arguments = tmp_path / "data", tmp_path / "cuda"
    run_simulated("-m", "tests.gpu.tiny_training", "cuda", *arguments)
    host = tiny_training.main("cpu", tmp_path / "data", tmp_path / "cpu")
    gpu = RunFolder(tmp_path / "cuda")
    assert (gpu.config["training"]["device"], host.config["training"]["device"]) == ("cuda", "cpu")
    records = list(zip(gpu.metrics(), host.metrics(), strict=True))
    assert len(records) == 3
    for there, here in records[:2]:
        assert there["train_loss"] == pytest.approx(here["train_loss"], rel=1e-5)
        assert there["validation"] == pytest.approx(here["validation"], rel=1e-5)
    assert records[2][0]["test"] == pytest.approx(records[2][1]["test"], rel=1e-5)
    weights, expected = (load_file(run.path / "model.safetensors") for run in (gpu, host))
    for name, array in expected.items():
        np.testing.assert_allclose(weights[name], array, rtol=1e-4, atol=1e-6, err_msg=name)
    there, here = (pq.read_table(run.path / "scores.parquet") for run in (gpu, host))
    assert there["label"] == here["label"]
    np.testing.assert_allclose(there["probability"], here["probability"], rtol=1e-5)
