"""Every benchmark runs and leaves the rows it promises; nothing is said about time."""

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import pytest

PERF = Path(__file__).resolve().parent.parent / "perf"
PUBLISHED = {"published formula"}
TABLES = {"torch", "torch, huge pages", "FBGEMM"}
COPY = {"copy (Numba)"}
CONTENDERS = {
    "bench_hash": {"robe", "NumPy"},
    "bench_lookup": {"robe", "robe, aligned", "robe, float16"} | TABLES | PUBLISHED | COPY,
    "bench_bag": {"robe"} | TABLES | COPY,
    "bench_update": {"robe"} | TABLES | PUBLISHED,
    "bench_interaction": {"robe, fused", "robe, two passes", "torch"},
    "bench_dlrm": {"robe", "torch", "matrix products, BLAS threads", "matrix products, in parts"},
    "sweeps": {"lookup", "SGD step", "torch, huge pages"} | COPY,
}
WORKS = {
    "bench_hash": {"starts, multiply-shift", "starts, paper", "starts, uma"},
    "bench_lookup": {"lookup"},
    "bench_bag": {
        f"{bags}, {work}"
        for bags in ("bags", "weighted bags")
        for work in ("sum", "SGD step", "Adagrad step")
    },
    "bench_update": {"SGD step", "Adagrad step"},
    "bench_interaction": {"lookup and interaction"},
    "bench_dlrm": {"training step", "inference"},
    "sweeps": {"block size", "batch", "array size", "threads"},
}


def run(script, *arguments, **environment):
    command = [sys.executable, str(PERF / f"{script}.py"), *map(str, arguments)]
    environment = os.environ | environment
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """The folder of one tiny run of everything."""
    folder = tmp_path_factory.mktemp("perf")
    finished = run("run_all", "--shape", "tiny", "--repeats", 1, "--output", folder)
    assert finished.returncode == 0, finished.stderr
    return folder


@pytest.mark.parametrize("script", CONTENDERS)
def test_a_benchmark_leaves_its_rows(output, script):
    rows = json.loads((output / f"{script}.json").read_text())["rows"]
    assert {row["contender"] for row in rows} - {"copy (torch)"} == CONTENDERS[script]
    assert {row["work"] for row in rows} == WORKS[script]
    for row in rows:
        assert (row["ms"] is None) == row["note"].startswith("absent"), row
        assert row["role"] == "peer" or row["ms"] is not None, row


@pytest.mark.skipif(find_spec("torch") is not None, reason="torch is installed")
def test_missing_peers_are_reported(output):
    rows = json.loads((output / "bench_lookup.json").read_text())["rows"]
    notes = {row["note"] for row in rows if row["role"] == "peer"}
    assert notes == {"absent: torch is not installed"}
    assert "FBGEMM absent: torch is not installed." in (output / "table.md").read_text()


def test_all_results_become_one_table_and_one_picture(output):
    lines = (output / "table.md").read_text().splitlines()
    assert lines[0] == "<!-- table -->"
    assert lines[-1] == "<!-- /table -->"
    assert sum(line.startswith("|---") for line in lines) == 1
    assert (output / "speed.png").stat().st_size > 0


def test_a_picture_is_drawn_of_what_a_gpu_measured_elsewhere(output, tmp_path):
    (tmp_path / "cuda").mkdir()
    result = (output / "bench_lookup.json").read_text()
    (tmp_path / "cuda" / "bench_lookup.json").write_text(result)
    finished = run("run_all", "--draw", "--device", "cuda", "--output", tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert (tmp_path / "cuda" / "speed.png").stat().st_size > 0


def test_a_benchmark_stands_alone_and_draws_its_times(tmp_path):
    picture = tmp_path / "picture.svg"
    options = ["--shape", "tiny", "--repeats", 1, "--threads", 1, "--peers", "none"]
    finished = run("bench_lookup", *options, "--ids", "zipf", "--plot", picture)
    assert finished.returncode == 0, finished.stderr
    assert "torch, ms" not in finished.stdout
    assert picture.stat().st_size > 0


def test_ingest_is_compared_and_its_memory_measured(tmp_path):
    options = ["--rows", 1000, "--repeats", 1, "--folder", tmp_path, "--json", tmp_path / "json"]
    finished = run("bench_ingest", *options)
    assert finished.returncode == 0, finished.stderr
    rows = json.loads((tmp_path / "json").read_text())["rows"]
    names = {"robe", "polars", "duckdb", "pyarrow.csv", "gzip"}
    assert {row["contender"] for row in rows} == names
    assert {row["shape"] for row in rows} == {"whole job", "parsing", "inflating", "loading"}
    for row in rows:
        assert (row["ms"] is None) == row["note"].startswith("absent"), row
    finished = run("bench_ingest", *options, "--memory")
    assert finished.returncode == 0, finished.stderr
    found = json.loads((tmp_path / "json").read_text())["memory"]
    assert [line["rows"] for line in found] == [1000, 1000, 5000, 20000, 1000]
    kept = {"json", "log-1000.tsv", "log-1000.tsv.gz"}
    assert {path.name for path in tmp_path.iterdir()} == kept


def test_calls_of_a_server_are_timed_by_batch_threads_and_ids(tmp_path):
    options = ["--shape", "tiny", "--threads", 1, "--repeats", 2, "--json", tmp_path / "json"]
    finished = run("bench_latency", *options)  # which compares logits with NumPy
    assert finished.returncode == 0, finished.stderr
    rows = json.loads((tmp_path / "json").read_text())["rows"]
    races = {(row["threads"], row["ids"], row["batch"], row["contender"]) for row in rows}
    names = ("robe", "full", "full, by row")
    assert races == set(product((1,), ("uniform", "zipf"), (1, 4), names))
    for row in rows:
        assert row["calls"] == {1: 20, 4: 10}[row["batch"]]
        assert 0 < row["p50"] <= row["p99"], row
        # At least half of the calls took p50 or more, and none less than nothing.
        assert 0 < row["rows_per_second"] <= 2e3 * row["batch"] / row["p50"], row


def test_measurements_keep_to_theory(tmp_path):
    finished = run("theory", "--quick", "--output", tmp_path)
    assert finished.returncode == 0, finished.stderr
    lines = re.findall(r"^(.+): largest of (\d+) deviations (\S+) standard", finished.stdout, re.M)
    assert {name: int(points) for name, points, _ in lines} == {
        "variance, signed": 15,
        "mean error, signed": 15,
        "bias, unsigned": 15,
        "same start": 9,
        "distinct starts": 3,
        "rows that share all": 30,
    }
    for name, _, deviation in lines:  # seeds are fixed; nan would fail too
        assert abs(float(deviation)) < 5, name
    assert "| rows that share all | uma, " in (tmp_path / "table.md").read_text()
    assert (tmp_path / "theory.png").stat().st_size > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--device", "cuda"], "choose from"),
        (["--threads", "0"], "it must be in [1, "),
        (["--repeats", "0"], "at least 1"),
        (["--peers", "tensorflow"], "['tensorflow']"),
    ],
)
def test_options_that_cannot_be_met_are_refused(options, message):
    finished = run("bench_hash", "--shape", "tiny", *options)
    assert finished.returncode == 2
    assert message in finished.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="numba-cuda is installed on Linux alone")
@pytest.mark.parametrize(
    ("script", "peers", "contenders"),
    [
        (
            "bench_lookup",
            "cupy",
            {"robe", "robe, aligned", "robe, float16", "CuPy indexing", "copy (CuPy)"},
        ),
        ("bench_inference", "torch", {"robe", "full tables", "torch"}),
    ],
)
def test_a_benchmark_runs_on_a_gpu(script, peers, contenders, tmp_path):
    """Simulated, where events measure nothing: that its checks pass, and who is in it."""
    if peers == "torch" and find_spec("torch") is not None:
        pytest.skip("torch is installed, and would need a real GPU")
    options = ["--device", "cuda", "--shape", "tiny", "--repeats", 1, "--peers", peers]
    simulated = {"NUMBA_ENABLE_CUDASIM": "1", "NUMBA_DISABLE_JIT": "1"}
    finished = run(script, *options, "--json", tmp_path / "rows.json", **simulated)
    assert finished.returncode == 0, finished.stderr
    result = json.loads((tmp_path / "rows.json").read_text())
    assert result["about"]["device"] == "cuda"
    assert {row["contender"] for row in result["rows"]} == contenders
    assert {row["device"] for row in result["rows"]} == {"cuda"}


@pytest.mark.skipif(find_spec("cupy") is not None, reason="CuPy is installed")
def test_a_gpu_that_is_not_there_is_reported():
    finished = run("bench_lookup", "--shape", "tiny", "--device", "cuda")
    assert finished.returncode == 2
    assert "need CuPy and numba-cuda: pip install" in finished.stderr
