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


def run(script, *arguments, **environment):
    command = [sys.executable, "-m", f"perf.{script}", *map(str, arguments)]
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
        (
            "bench_inference",
            "torch",
            {"robe", "full tables", "torch", "torch, 3 EmbeddingBags"},
        ),
    ],
)
def test_a_benchmark_runs_on_a_gpu(script, peers, contenders, tmp_path):
    """Simulated, where events measure nothing: that its checks pass, and who is in it."""
    if find_spec("torch") is None:
        contenders = contenders - {"torch, 3 EmbeddingBags"}
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


GPU_FILES = {"check.log", "results.jsonl", "summary.md"}


@pytest.mark.skipif(sys.platform != "linux", reason="numba-cuda is installed on Linux alone")
def test_a_gpu_is_checked_section_by_section(tmp_path):
    """Simulated; all of it takes a minute, so here is what is quick, and what is skipped."""
    only = ["--only", "versions,peers,train,kernels,ncu,sanitizer,tests"]
    options = ["--output", tmp_path, "--tiny", "--seconds", 500, *only]
    finished = run("gpu_check", *options, NUMBA_ENABLE_CUDASIM="1")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert {path.name for path in tmp_path.iterdir()} == GPU_FILES
    said = (tmp_path / "check.log").read_text()
    assert said in finished.stdout + "\n"
    ends = dict(re.findall(r"^== (\w+): ([a-zA-Z]+)", said, re.M))
    skipped = dict.fromkeys(("train", "ncu", "sanitizer", "tests"), "skipped")
    assert ends == {"versions": "done", "peers": "done", "kernels": "done"} | skipped
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert {line["section"] for line in lines} >= {"versions"}
    assert said.splitlines()[-1].startswith("| racecheck |")


WORKER = """
import sys, time
sections = sys.argv[sys.argv.index("--only") + 1].split(",")
for section in sections:
    print("@begins", section, flush=True)
    sys.stdin.readline()
    print("in", section, flush=True)
    if section == "digests":
        sys.exit(1)
    if section == "times":
        time.sleep(60)
    print("@ends", section, "1.0", "done", flush=True)
    if section == "peers":
        sys.exit(3)
"""


class NothingBeside:
    """What a supervisor asks of programs beside the worker."""

    def before(self, section):
        pass

    def run(self, section, limit):
        raise OSError(f"{section} cannot run")


def test_a_section_that_ends_hangs_or_breaks_the_gpu_leaves_the_next_alone(tmp_path, monkeypatch):
    import time

    from perf.gpu.checker import supervisor

    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    monkeypatch.setattr(supervisor, "SCRIPT", script)
    monkeypatch.setattr(supervisor, "SHORTEST", 0.1)
    chosen = ["versions", "digests", "times", "peers", "ncu", "step"]
    watched = supervisor.Supervisor(tmp_path, time.monotonic() + 60, tiny=True)
    for section in chosen:
        limit = 0.5 if section == "times" else 20
        watched.run(section, limit, chosen, NothingBeside())
    watched.deadline = 0
    watched.run("host", 20, chosen, NothingBeside())
    watched.close()
    said = (tmp_path / "check.log").read_text()
    ends = dict(re.findall(r"^== (\w+): ([^,(]+)", said, re.M))
    assert {name: end.strip() for name, end in ends.items()} == {
        "versions": "done",
        "digests": "FAILED: the process ended",
        "times": "out of time",
        "peers": "done",
        "ncu": "FAILED",
        "step": "done",
        "host": "no time is left",
    }
    assert "OSError: ncu cannot run" in said


@pytest.mark.skipif(sys.platform != "linux", reason="states of processes are read from /proc")
def test_a_program_beside_the_measurements_is_held_back(tmp_path):
    from perf.gpu.checker.program import Program

    def state():
        return Path(f"/proc/{program._process.pid}/stat").read_text().rsplit(")", 1)[1].split()[0]

    program = Program("sleep", ["sleep", "60"], tmp_path / "log", tmp_path)
    program.hold()
    assert not program.wait(0.2)
    assert state() == "T"
    program.go_on()
    assert state() in "SR"
    program.hold()
    program.end()
    assert program.status == -9
    program = Program("echo", ["echo", "one\ntwo"], tmp_path / "log", tmp_path)
    assert program.wait(10)
    assert program.tail(1) == "two"


def test_what_was_reached_is_said(tmp_path):
    from perf.gpu.checker import summary

    results = [
        {"work": "copy", "ms": 2.0, "gb_per_s": 4000.0},
        {"work": "lookup S1 Z=128 alignment 32", "ms": 0.5, "gb_per_s": 3600.0},
        {"work": "lookup S1 Z=128 alignment 1", "ms": 0.9, "gb_per_s": 2000.0},
        {"work": "step S1 SGD, uniform ids", "ms": 2.0},
        {"work": "torch S1 SGD, uniform ids", "ms": 7.0, "note": "waits"},
        {"work": "lookup, CuPy", "us": 29.0},
        {"work": "robe inference float32 8", "ms": 1.0, "wall_ms": 2.0},
        {"work": "full inference float32 8", "ms": 2.0, "wall_ms": 3.0},
        {"work": "robe inference float32 64", "ms": 1.0, "wall_ms": 2.0},
        {"work": "full inference float32 64", "ms": 4.0, "wall_ms": 3.0},
        {"work": "train cpu 2048", "rows_per_second": 100.0, "losses": [0.5, 0.4]},
        {"work": "train cuda 2048", "rows_per_second": 900.0, "losses": [0.5, 0.4001]},
    ]
    text = "".join(json.dumps({"section": "any", **result}) + "\n" for result in results)
    (tmp_path / "results.jsonl").write_text(text)
    table = summary.write(tmp_path)
    assert (tmp_path / "summary.md").read_text() == table + "\n"
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    assert {len(row) for row in rows} == {5}
    found = {row[0]: row[2:] for row in reversed(rows)}
    assert found["lookup S1 Z=128 alignment 32"] == ["90%", ">= 85%", "yes"]
    assert found["lookup S1 Z=128 alignment 1"] == ["50%", ">= 70%", "NO"]
    assert found["step S1 SGD, uniform ids"][0].startswith("3.50x of torch S1 SGD")
    assert found["step S1 SGD, uniform ids"][2] == "yes"
    assert found["step S1 Adagrad, uniform ids"] == ["", ">= 3x", "?"]
    assert found["host, lookup, CuPy"] == ["29.0 us", "<= 30 us", "yes"]
    assert found["inference float32 against full"][0].startswith("4.00x at batch 64")
    assert found["inference float32 against full"][2] == "yes"
    assert found["training of kaggle, batches of 2048"][0] == "9.0x: 900 against 100 rows/s"
    assert found["training of kaggle, batches of 2048"][2] == "NO"
    assert found["its losses, batches of 2048"][2] == "yes"


def test_counters_of_kernels_become_a_table():
    from perf.gpu.checker import ncu

    output = (
        'lookup S1\n==PROF== Profiling\n"ID","Kernel Name","gpu__time_duration.sum"\n'
        '"","","ns"\n"0","gather","1,250.0"\n"1","pool","n/a"\n'
    )
    lines = ncu.table(output).splitlines()
    assert lines[0].strip().startswith("us | MB read")
    assert lines[1].strip().startswith("1.2 | ?")
    assert lines[1].endswith("| gather")
    assert lines[2].strip().startswith("? | ?")
    assert ncu.table("==ERROR== no permission\n") == ""


@pytest.mark.skipif(sys.platform != "linux", reason="numba-cuda is installed on Linux alone")
def test_launches_are_timed_call_by_call(tmp_path):
    """Simulated: that it runs, and what is in it."""
    simulated = {"NUMBA_ENABLE_CUDASIM": "1", "NUMBA_DISABLE_JIT": "1"}
    options = ["--tiny", "--calls", 1, "--json", tmp_path / "json"]
    finished = run("gpu.bench_launch", *options, **simulated)
    assert finished.returncode == 0, finished.stderr
    names = {line["name"].split(",")[0] for line in json.loads((tmp_path / "json").read_text())}
    assert names >= {"lookup", "sgd_update", "embedding_bag", "DLRM.logits", "DLRM.train_step"}
    finished = run("gpu.bench_launch", **simulated)
    assert finished.returncode == 2
    assert "the GPU is simulated" in finished.stderr


def test_a_script_that_fails_does_not_stop_the_others(tmp_path):
    scripts = {"bench_nothing": 1.0, "bench_hash": 1.0}
    arguments = ["--shape", "tiny", "--repeats", "1", "--output", str(tmp_path)]
    code = (
        f"import sys; sys.argv[1:] = {arguments!r}\n"
        f"from perf import run_all; run_all.SCRIPTS['cpu'] = {scripts!r}; run_all.main()"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert finished.returncode == 1
    assert "failed, and lacking above: bench_nothing, cpu" in finished.stderr
    assert "starts, multiply-shift" in (tmp_path / "table.md").read_text()


class FakeGPU:
    """Events that pass when the clock, moved by hand, has come to them."""

    def __init__(self):
        self.now, self.queue = 0.0, 0.0  # milliseconds: of the host, and when the GPU is done
        self.xp = self.cuda = self.runtime = self
        self.simulated = False

    def Device(self):  # noqa: N802 - CuPy's name
        return self

    def synchronize(self):
        self.now = max(self.now, self.queue)

    def RawKernel(self, source, name):  # noqa: N802 - CuPy's name
        return lambda grid, block, arguments: self.work(float(arguments[0]) / 1e6)

    def work(self, milliseconds):
        self.queue = max(self.now, self.queue) + milliseconds

    def Event(self):  # noqa: N802 - CuPy's name
        return FakeEvent(self)

    def get_elapsed_time(self, begin, end):
        return end.at - begin.at


class FakeEvent:
    def __init__(self, gpu):
        self.gpu = gpu

    def record(self):
        self.at = max(self.gpu.now, self.gpu.queue)

    @property
    def done(self):
        return self.gpu.now >= self.at

    def synchronize(self):
        self.gpu.now = max(self.gpu.now, self.at)


@pytest.mark.parametrize("waits", [False, True])
def test_a_gpu_is_timed_without_its_host(monkeypatch, waits):
    from perf.gpu import device_times

    gpu = FakeGPU()
    monkeypatch.setattr(device_times, "here", lambda: gpu)
    monkeypatch.setattr(device_times, "wall_milliseconds", lambda run: 0.3)
    device_times._delay.cache_clear()

    def call():  # two kernels of 1 ms, 3 ms of Python before each
        for _ in range(2):
            gpu.now += 3
            gpu.work(1)
            if waits:
                gpu.synchronize()

    found = device_times.device_times(call)
    device_times._delay.cache_clear()
    if waits:
        assert found == (8, 8, 8, device_times.HOST_INCLUDED)
    else:
        assert found == (2, 2, 2, "")
