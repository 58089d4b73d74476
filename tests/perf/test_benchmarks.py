"""Every benchmark runs and leaves the rows it promises; nothing is said about time."""

import json
import re
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from shutil import which
from types import SimpleNamespace

import pytest

from perf import run_all
from perf.harness import ingest_memory
from tests.perf.scripts import SIMULATED, call, run, run_several
from tests.support.needs import GPU, need

PUBLISHED = {"published formula"}
TABLES = {"torch", "torch, huge pages", "FBGEMM"}
COPY = {"copy (Numba)"}
CONTENDERS = {
    "bench_hash": {"robe", "NumPy"},
    "bench_lookup": {"robe", "robe, aligned", "robe, float16", "robe, int8"}
    | TABLES
    | PUBLISHED
    | COPY,
    "bench_bag": {"robe"} | TABLES | COPY,
    "bench_update": {"robe"} | TABLES | PUBLISHED,
    "bench_interaction": {"robe, fused", "robe, two passes", "torch"},
    "bench_dlrm": {"robe", "torch", "matrix products, BLAS threads", "matrix products, in parts"},
    "bench_sweeps": {"lookup", "SGD step", "torch, huge pages"} | COPY,
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
    "bench_sweeps": {"block size", "batch", "array size", "threads"},
}


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """The folder of one tiny run of everything, in this process."""

    def run_here(command, check):
        _, option, module, *arguments = command
        assert option == "-m"
        call(module.removeprefix("perf."), *arguments)
        return SimpleNamespace(returncode=0)

    folder = tmp_path_factory.mktemp("perf")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_all, "subprocess", SimpleNamespace(run=run_here))
        call("run_all", "--shape", "tiny", "--repeats", 1, "--output", folder)
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


def test_all_results_become_one_table_and_one_plot(output):
    lines = (output / "table.md").read_text().splitlines()
    assert lines[0] == "<!-- table -->"
    assert lines[-1] == "<!-- /table -->"
    assert sum(line.startswith("| ---") for line in lines) == 1
    assert (output / "speed.png").stat().st_size > 0


def test_a_plot_is_drawn_of_what_a_gpu_measured_elsewhere(output, tmp_path):
    (tmp_path / "cuda").mkdir()
    result = (output / "bench_lookup.json").read_text()
    (tmp_path / "cuda" / "bench_lookup.json").write_text(result)
    call("run_all", "--draw", "--device", "cuda", "--output", tmp_path)
    assert (tmp_path / "cuda" / "speed.png").stat().st_size > 0


def test_a_benchmark_stands_alone_and_draws_its_times(tmp_path, capsys):
    plot = tmp_path / "plot.svg"
    options = ["--shape", "tiny", "--repeats", 1, "--threads", 1, "--peers", "none"]
    call("bench_lookup", *options, "--ids", "zipf", "--plot", plot)
    assert "torch, ms" not in capsys.readouterr().out
    assert plot.stat().st_size > 0


def test_a_model_with_lists_is_measured_too(tmp_path):
    options = ["--shape", "tiny-dcnv2", "--repeats", 1, "--json", tmp_path / "json"]
    call("bench_dlrm", *options)
    rows = json.loads((tmp_path / "json").read_text())["rows"]
    assert {row["contender"] for row in rows} == CONTENDERS["bench_dlrm"]
    alone = {f"{work}, embeddings alone" for work in WORKS["bench_dlrm"]}
    assert {row["work"] for row in rows} == WORKS["bench_dlrm"] | alone


def test_ingest_is_compared_and_its_memory_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(ingest_memory, "COPIES", (1, 3))
    options = ["--rows", 1000, "--repeats", 1, "--folder", tmp_path, "--json", tmp_path / "json"]
    call("bench_ingest", *options)
    rows = json.loads((tmp_path / "json").read_text())["rows"]
    names = {"robe", "polars", "duckdb", "pyarrow.csv", "gzip", "pyarrow", "tables"}
    assert {row["contender"] for row in rows} == names
    shapes = {"whole job", "parsing", "inflating", "loading", "loading lists"}
    assert {row["shape"] for row in rows} == shapes
    for row in rows:
        assert (row["ms"] is None) == row["note"].startswith("absent"), row
        wrote = row["shape"] == "whole job" and row["ms"] is not None
        assert (row["output_bytes"] is not None) == wrote, row
    call("bench_ingest", *options, "--memory")
    found = json.loads((tmp_path / "json").read_text())["memory"]
    assert [line["rows"] for line in found] == [1000, 1000, 3000, 1000]
    assert all(line["peak_bytes"] > 10**7 for line in found)
    kept = {"json", "log-1000.tsv", "log-1000.tsv.gz"}
    assert {path.name for path in tmp_path.iterdir()} == kept


@pytest.mark.skipif(find_spec("onnxruntime") is None, reason="onnxruntime is not installed")
def test_scorers_are_compared_by_batch_and_threads(tmp_path):
    options = ["--shape", "tiny", "--parts", "scorer", "--threads", 1, "--repeats", 2]
    call("bench_serving", *options, "--json", tmp_path / "json")  # which compares the scores
    rows = json.loads((tmp_path / "json").read_text())["scorer"]
    names = [f"{tool}, {kind}" for tool in ("Scorer", "ONNX Runtime") for kind in ("robe", "full")]
    races = {(row["threads"], row["batch"], row["contender"]) for row in rows}
    assert races == set(product((1,), (1, 64), names))
    for row in rows:
        assert row["calls"] == {1: 10, 64: 4}[row["batch"]]
        assert 0 < row["p50"] <= row["p99"], row
        # At least half of the calls took p50 or more, and none less than nothing.
        assert 0 < row["rows_per_second"] <= 2e6 * row["batch"] / row["p50"], row


@pytest.mark.skipif(which("wrk") is None, reason="wrk is not installed")
@pytest.mark.skipif(find_spec("uvicorn") is None, reason="uvicorn is not installed")
def test_a_server_is_measured_with_and_without_batches(tmp_path):
    options = ["--shape", "tiny", "--parts", "server", "start", "--seconds", 1, "--repeats", 1]
    call("bench_serving", *options, "--json", tmp_path / "json")  # which compares the scores
    results = json.loads((tmp_path / "json").read_text())
    assert [row["scored"] for row in results["server"]] == ["together", "one by one"]
    for row in results["server"]:
        assert row["requests_per_second"] > 0
        assert 0 < row["p50"] <= row["p99"]
    assert results["start"][0]["median_seconds"] > 0


@pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
def test_torch_modules_are_compared_with_numpy_and_torch(tmp_path):
    options = ["--shape", "tiny", "--repeats", 1, "--peers", "torch", "--json", tmp_path / "json"]
    finished = run("-m", "perf.harness.torch_first", "bench_torch", *options)
    assert finished.returncode == 0, finished.stderr
    result = json.loads((tmp_path / "json").read_text())
    assert result["about"]["torch first"]
    contenders = {
        work: {row["contender"] for row in result["rows"] if row["work"] == work}
        for work in {row["work"] for row in result["rows"]}
    }
    modules = {"robe", "robe, compiled"}
    read = modules | {"robe, gradients recorded", "robe, compiled, gradients recorded", "NumPy"}
    assert contenders == {
        "lookup": read,
        "1000 lookups of batch 1": read,
        "SGD step": modules | {"NumPy", "torch"},
        "Adagrad step": modules | {"NumPy", "torch"},
        **{
            f"{optimizer} step, DLRM{which}": modules | {"torch"}
            for optimizer in ("SGD", "Adagrad")
            for which in ("", " of the example")
        },
    }
    assert all(row["ms"] > 0 for row in result["rows"])


def test_measurements_keep_to_theory(tmp_path, capsys):
    call("theory", "--quick", "--output", tmp_path)
    text = capsys.readouterr().out
    lines = re.findall(r"^(.+): largest of (\d+) deviations (\S+) standard", text, re.M)
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
def test_options_that_cannot_be_met_are_refused(options, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        call("bench_hash", "--shape", "tiny", *options)
    assert message in capsys.readouterr().err


@pytest.mark.skipif(find_spec("cupy") is not None, reason="CuPy is installed")
def test_a_gpu_that_is_not_there_is_reported(capsys):
    with pytest.raises(SystemExit, match="2"):
        call("bench_lookup", "--shape", "tiny", "--device", "cuda")
    assert "need CuPy and numba-cuda: pip install" in capsys.readouterr().err


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """The folder of some runs on a simulated GPU, and what they wrote to stderr."""
    need(*GPU)
    folder = tmp_path_factory.mktemp("simulated")
    gpu = ["--device", "cuda", "--shape", "tiny", "--repeats", 1]
    calls = [
        ["bench_lookup", *gpu, "--peers", "cupy", "--json", folder / "bench_lookup"],
        ["bench_inference", *gpu, "--peers", "torch", "--json", folder / "bench_inference"],
        ["gpu.bench_launch", "--tiny", "--calls", 1, "--json", folder / "bench_launch"],
        ["gpu.bench_launch"],
    ]
    return folder, run_several(calls, **SIMULATED)


@pytest.mark.parametrize(
    ("script", "contenders"),
    [
        (
            "bench_lookup",
            {"robe", "robe, aligned", "robe, float16", "CuPy indexing", "copy (CuPy)"},
        ),
        ("bench_inference", {"robe", "full tables", "torch", "torch, 3 EmbeddingBags"}),
    ],
)
def test_a_benchmark_runs_on_a_gpu(simulated, script, contenders):
    """Simulated, where events measure nothing: that its checks pass, and who is in it."""
    if find_spec("torch") is None:
        contenders = contenders - {"torch, 3 EmbeddingBags"}
    result = json.loads((simulated[0] / script).read_text())
    assert result["about"]["device"] == "cuda"
    assert {row["contender"] for row in result["rows"]} == contenders
    assert {row["device"] for row in result["rows"]} == {"cuda"}


def test_launches_are_timed_call_by_call(simulated):
    """Simulated: that it runs, and what is in it; without --tiny it refuses to."""
    folder, errors = simulated
    lines = json.loads((folder / "bench_launch").read_text())
    names = {line["name"].split(",")[0] for line in lines}
    assert names >= {"lookup", "sgd_update", "embedding_bag", "DLRM.logits", "DLRM.train_step"}
    assert "the GPU is simulated" in errors


def test_a_script_that_fails_does_not_stop_the_others(tmp_path, monkeypatch):
    monkeypatch.setitem(run_all.SCRIPTS, "cpu", {"bench_nothing": 1.0, "bench_hash": 1.0})
    with pytest.raises(SystemExit, match="failed, and missing above: bench_nothing, cpu"):
        call("run_all", "--shape", "tiny", "--repeats", 1, "--output", tmp_path)
    assert "starts, multiply-shift" in (tmp_path / "table.md").read_text()


def test_a_script_runs_by_its_path():
    finished = run(Path(run_all.__file__).with_name("bench_hash.py"), "--repeats", 0)
    assert finished.returncode == 2
    assert "--repeats is 0" in finished.stderr
