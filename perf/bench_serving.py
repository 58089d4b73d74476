"""Serve a run: our Scorer against ONNX Runtime, and the HTTP server with and without batching.

    python perf/bench_serving.py                             10 minutes, 12 GB of memory, wrk
    python perf/bench_serving.py --parts scorer              without the server
    python perf/bench_serving.py --shape tiny --seconds 1    seconds, to see that it works

`robe` hashes raw ids. `full` finds their rows among the known ids; its tables have 2 GB. ONNX
Runtime executes what `robe export` makes of the same runs. Client and server share the machine.
"""

import argparse
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numba
import numpy as np

from perf.harness.places import here
from perf.harness.race import keep_memory
from perf.serving.load import Load, ask, load, serving, write_requests
from perf.serving.runs import SHAPES, Served
from perf.serving.scorers import measure
from robe_numba.formatting import markdown_table
from robe_numba.serving import Scorer

CALLS = {1: 300, 64: 100, 2048: 10}  # of a turn, for each batch size
TINY_CALLS = {1: 5, 64: 2}
CONNECTIONS = 64
PARTS = ("scorer", "server", "start")


def scorer_table(served: Served, folder: Path, threads: list[int], repeats: int, tiny: bool) -> str:
    """Latency and speed of all contenders."""
    runs = {kind: served.save(folder, kind) for kind in ("robe", "full")}
    lines = []
    for number in threads:
        for r in measure(served, runs, TINY_CALLS if tiny else CALLS, number, repeats):
            cells = [str(r.threads), f"{r.batch:,}", r.contender, f"{r.calls:,}"]
            lines.append([*cells, f"{r.p50:,.1f}", f"{r.p99:,.1f}", f"{r.rows_per_second:,.0f}"])
    columns = ["threads", "batch", "contender", "calls", "p50, us", "p99, us", "rows/s"]
    return markdown_table(columns, lines)


def check(served: Served, run: Path, url: str) -> None:
    """Compare scores of the server with those of the Scorer, bit for bit."""
    dense, ids = served.dense(8, 7), served.ids(8, 7)
    np.testing.assert_array_equal(ask(url, run.name, dense, ids), Scorer(run)(dense, ids))


def server_lines(served: Served, folder: Path, seconds: int, rounds: int) -> Iterator[list[str]]:
    """Requests of one row with and without batching, and binary requests of 256 rows."""
    run = served.save(folder, "robe")
    cases = (("1 row, JSON", 1, False), ("1 row, binary", 1, True), ("256 rows, binary", 256, True))
    for title, rows, binary in cases:
        bodies = folder / f"{rows}-{binary}"
        headers = write_requests(served, bodies, rows, binary)
        found: dict[str, list[Load]] = {}
        for _ in range(rounds):
            for batching, options in (("together", ()), ("one by one", ("--max-batch", 1))):
                with serving(run, *options) as (url, _):
                    check(served, run, url)
                    load(url, run.name, bodies, headers, CONNECTIONS, 1)  # warm up
                    done = load(url, run.name, bodies, headers, CONNECTIONS, seconds)
                    found.setdefault(batching, []).append(done)
        for batching, loads in found.items():
            each = statistics.median(one.requests_per_second for one in loads)
            p50, p99 = (statistics.median(getattr(one, n) for one in loads) for n in ("p50", "p99"))
            yield [
                title,
                batching,
                f"{each:,.0f}",
                f"{each * rows:,.0f}",
                f"{p50:.2f}",
                f"{p99:.2f}",
            ]


def start_line(served: Served, folder: Path, repeats: int) -> str:
    """How long a server takes from its command to ready."""
    run, times = served.save(folder, "robe"), []
    for _ in range(repeats + 1):
        with serving(run) as (_, seconds):
            times.append(seconds)
    return f"start to ready: {statistics.median(times[1:]):.2f} s (first {times[0]:.2f} s)"


def main() -> None:
    """Measure and print."""
    most = numba.config.NUMBA_NUM_THREADS
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", choices=SHAPES, default="kaggle")
    parser.add_argument("--parts", choices=PARTS, nargs="+", default=PARTS)
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, most}))
    parser.add_argument("--repeats", type=int, default=5, help="turns of each contender")
    parser.add_argument("--seconds", type=int, default=5, help="of each load")
    options = parser.parse_args()
    keep_memory()
    print(f"{here().describe()}; shape {options.shape}", flush=True)
    served, tiny = SHAPES[options.shape], options.shape == "tiny"
    for part in options.parts:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            if part == "scorer":
                print(scorer_table(served, folder, options.threads, options.repeats, tiny))
            elif part == "server":
                columns = ["request", "scored", "requests/s", "rows/s", "p50, ms", "p99, ms"]
                lines = server_lines(served, folder, options.seconds, options.repeats)
                print(markdown_table(columns, list(lines)), flush=True)
            else:
                print(start_line(served, folder, options.repeats), flush=True)


if __name__ == "__main__":
    main()
