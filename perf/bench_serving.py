"""Serve a run: our Scorer against ONNX Runtime, and the HTTP server with and without batching.

    python perf/bench_serving.py                             10 minutes, 12 GB of memory, wrk
    python perf/bench_serving.py --parts scorer              without the server
    python perf/bench_serving.py --shape tiny --seconds 1    seconds, to see that it works

`robe` hashes raw ids. `full` finds their rows among the known ids; its tables have 2 GB. ONNX
Runtime executes what `robe export` makes of the same runs. Client and server share the machine.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, astuple
from pathlib import Path
from typing import Any

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


Result = dict[str, Any]


def scorer_results(
    served: Served, folder: Path, threads: list[int], repeats: int, tiny: bool
) -> Iterator[Result]:
    """Latency and speed of all contenders."""
    runs = {kind: served.save(folder, kind) for kind in ("robe", "full")}
    for number in threads:
        for latency in measure(served, runs, TINY_CALLS if tiny else CALLS, number, repeats):
            yield asdict(latency)


def check(served: Served, run: Path, url: str) -> None:
    """Compare scores of the server with those of the Scorer, bit for bit."""
    dense, ids = served.dense(8, 7), served.ids(8, 7)
    np.testing.assert_array_equal(ask(url, run.name, dense, ids), Scorer(run)(dense, ids))


def server_results(
    served: Served, folder: Path, seconds: int, rounds: int, tiny: bool
) -> Iterator[Result]:
    """Requests of one row and of 256, scored together and one by one."""
    run = served.save(folder, "robe")
    for rows, form in ((1, "JSON"), (1, "binary"), (256, "binary"))[: 1 if tiny else 3]:
        bodies = folder / f"{rows} {form}"
        headers = write_requests(served, bodies, rows, binary=form == "binary")
        found: dict[str, list[Load]] = {}
        for _ in range(rounds):
            for scored, options in (("together", ()), ("one by one", ("--max-batch", 1))):
                with serving(run, *options) as (url, _):
                    check(served, run, url)
                    load(url, run.name, bodies, headers, CONNECTIONS, 1)  # warm up
                    done = load(url, run.name, bodies, headers, CONNECTIONS, seconds)
                    found.setdefault(scored, []).append(done)
        for scored, loads in found.items():
            columns = zip(*(astuple(one) for one in loads), strict=True)
            each, p50, p99 = map(statistics.median, columns)
            yield {
                "request": f"{rows} rows, {form}",
                "scored": scored,
                "requests_per_second": each,
                "rows_per_second": each * rows,
                "p50": p50,
                "p99": p99,
            }


def start_results(served: Served, folder: Path, repeats: int) -> Iterator[Result]:
    """How long a server takes from its command to ready."""
    run, times = served.save(folder, "robe"), []
    for _ in range(repeats + 1):
        with serving(run) as (_, seconds):
            times.append(seconds)
    yield {"first_seconds": times[0], "median_seconds": statistics.median(times[1:])}


def table(results: list[Result]) -> str:
    """Results as Markdown; latencies of the server are milliseconds, of scorers microseconds."""
    cells = [
        [f"{value:,.2f}" if isinstance(value, float) else f"{value}" for value in result.values()]
        for result in results
    ]
    return markdown_table([name.replace("_", " ") for name in results[0]], cells)


def main() -> None:
    """Measure and print."""
    most = numba.config.NUMBA_NUM_THREADS
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", choices=SHAPES, default="kaggle")
    parser.add_argument("--parts", choices=PARTS, nargs="+", default=PARTS)
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, most}))
    parser.add_argument("--repeats", type=int, default=5, help="turns of each contender")
    parser.add_argument("--seconds", type=int, default=5, help="of each load")
    parser.add_argument("--json", type=Path, help="write the results there")
    options = parser.parse_args()
    keep_memory()
    about = f"{here().describe()}; shape {options.shape}"
    print(about, flush=True)
    served, tiny = SHAPES[options.shape], options.shape == "tiny"
    all_results = {}
    for part in options.parts:
        with tempfile.TemporaryDirectory() as name:
            folder, repeats = Path(name), options.repeats
            if part == "scorer":
                results = scorer_results(served, folder, options.threads, repeats, tiny)
            elif part == "server":
                results = server_results(served, folder, options.seconds, repeats, tiny)
            else:
                results = start_results(served, folder, repeats)
            all_results[part] = list(results)
        print(f"\n{table(all_results[part])}", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"about": about, **all_results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
