"""The check of a GPU: its sections, background programs, tables and clocks, without a GPU."""

import json
import re
import sys
import time
from pathlib import Path

import pytest

from perf.gpu import device_times
from perf.gpu.checker import ncu, summary, supervisor
from perf.gpu.checker.program import Program
from tests.perf.scripts import run
from tests.support.needs import GPU, need

GPU_FILES = {"check.log", "results.jsonl", "summary.md"}


def test_a_gpu_is_checked_section_by_section(tmp_path):
    """Simulated; all of it takes a minute, so here is what is quick, and what is skipped."""
    need(*GPU)
    only = ["--only", "versions,peers,train,kernels,ncu,sanitizer,tests"]
    options = ["--output", tmp_path, "--tiny", "--seconds", 500, *only]
    finished = run("-m", "perf.gpu_check", *options, NUMBA_ENABLE_CUDASIM="1")
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


class NoPrograms:
    """Background programs as a supervisor calls them."""

    def before(self, section):
        pass

    def run(self, section, limit):
        raise OSError(f"{section} cannot run")


def test_a_section_that_ends_hangs_or_breaks_the_gpu_leaves_the_next_alone(tmp_path, monkeypatch):
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    monkeypatch.setattr(supervisor, "WORKER", [sys.executable, "-u", str(script)])
    monkeypatch.setattr(supervisor, "SHORTEST", 0.1)
    chosen = ["versions", "digests", "times", "peers", "ncu", "step"]
    watched = supervisor.Supervisor(tmp_path, time.monotonic() + 60, tiny=True)
    for section in chosen:
        limit = 0.5 if section == "times" else 20
        watched.run(section, limit, chosen, NoPrograms())
    watched.deadline = 0
    watched.run("host", 20, chosen, NoPrograms())
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
def test_a_background_program_is_paused(tmp_path):
    def state():
        return Path(f"/proc/{program._process.pid}/stat").read_text().rsplit(")", 1)[1].split()[0]

    program = Program("sleep", ["sleep", "60"], tmp_path / "log", tmp_path)
    program.pause()
    assert not program.wait(0.2)
    assert state() == "T"
    program.resume()
    assert state() in "SR"
    program.pause()
    program.end()
    assert program.status == -9
    program = Program("echo", ["echo", "one\ntwo"], tmp_path / "log", tmp_path)
    assert program.wait(10)
    assert program.tail(1) == "two"


def test_what_was_reached_is_said(tmp_path):
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
