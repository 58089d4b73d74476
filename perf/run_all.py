"""Run all benchmarks, each in its own process, and make one table and one plot.

python perf/run_all.py                    writes table.md, speed.png and JSON to runs/perf
python perf/run_all.py --device cuda      the same on a GPU, in runs/perf/cuda
python perf/run_all.py --device both      the same, and some on the host in runs/perf/both
python perf/run_all.py --shape tiny       seconds, to see that everything works
python perf/run_all.py --draw             table and plot from an earlier run's results
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from perf.harness import command, markdown
from perf.harness.race import Row

BOTH = "both"
# The scripts for each device, and about how many minutes they take, to show the time that is left:
# measured on 2 cores, guessed for a GPU.
SCRIPTS = {
    "cpu": {
        "bench_hash": 0.3,
        "bench_lookup": 1.0,
        "bench_bag": 5.5,
        "bench_update": 1.2,
        "bench_interaction": 0.3,
        "bench_dlrm": 1.2,
        "bench_sweeps": 3.0,
    },
    "cuda": {
        "bench_lookup": 0.7,
        "bench_bag": 1.0,
        "bench_update": 0.7,
        "bench_interaction": 0.3,
        "bench_dlrm": 0.5,
        "bench_inference": 0.8,
    },
}
# Run on the host for comparison with a GPU.
SHORT = ("bench_lookup", "bench_update", "bench_dlrm")


def main() -> None:
    """Measure what is asked for, then write tables and plots."""
    options, passed_on = parse()
    folders = {"cpu": options.output, "cuda": options.output / "cuda"}
    chosen: tuple[str, ...] = (options.device,)
    if options.device == BOTH:
        folders["cpu"] = options.output / BOTH
        chosen = tuple(folders)
    failed = []
    if not options.draw:
        failed = measure({name: folders[name] for name in chosen}, passed_on)
    results = {name: read(folders[name], SCRIPTS[name]) for name in chosen}
    if options.draw and not all(results.values()):
        sys.exit(f"{options.output} has no results; run this without --draw")
    for name, found in results.items():
        if found:
            write(found, folders[name])
    if options.device == BOTH and all(results.values()):
        text = markdown.device_table([row for found in results.values() for row in rows_of(found)])
        (folders["cpu"] / "devices.md").write_text(text + "\n")
        print(text)
    if failed:
        sys.exit(f"failed, and missing above: {', '.join(failed)}")


def parse() -> tuple[argparse.Namespace, list[str]]:
    """Parse the command line; return also the part of it that every benchmark gets."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    command.add_common(parser, (*SCRIPTS, BOTH))
    parser.add_argument("--shape", choices=("full", command.TINY), default="full")
    parser.add_argument("--output", type=Path, default=Path("runs/perf"), help="folder")
    parser.add_argument("--draw", action="store_true", help="measure nothing")
    options = parser.parse_args()
    command.check(parser, options)
    passed_on = [
        *("--threads", str(options.threads), "--repeats", str(options.repeats)),
        *("--ids", options.ids, "--peers", ",".join(options.peers) or "none"),
        *(("--shape", command.TINY) if options.shape == command.TINY else ()),
    ]
    return options, passed_on


def measure(folders: dict[str, Path], passed_on: list[str]) -> list[str]:
    """Run every script in its own process, which frees all memory; return those that failed."""
    runs = [
        (device, script, minutes)
        for device in folders
        for script, minutes in SCRIPTS[device].items()
        if len(folders) == 1 or device != "cpu" or script in SHORT
    ]
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
        for script in set().union(*SCRIPTS.values()):  # do not mix the figures of two runs
            (folder / f"{script}.json").unlink(missing_ok=True)
    begun, done, failed = time.monotonic(), 0.0, []
    for position, (device, script, minutes) in enumerate(runs, 1):
        left = sum(run[2] for run in runs) - done
        if done:  # scaled by how long the scripts took so far, against the expectation
            left *= (time.monotonic() - begun) / 60 / done
        known = "" if "tiny" in passed_on else f", about {left:.0f} minutes left"
        print(f"[{position}/{len(runs)}] {script}, {device}{known}", flush=True)
        path = ["-m", f"perf.{script}", "--json", str(folders[device] / f"{script}.json")]
        command_line = [sys.executable, *path, "--device", device, *passed_on]
        if subprocess.run(command_line, check=False).returncode:
            failed.append(f"{script}, {device}")
        done += minutes
    return failed


def read(folder: Path, scripts: Iterable[str]) -> list[dict[str, Any]]:
    """The results of some scripts in a folder, where there are any."""
    paths = [folder / f"{script}.json" for script in scripts]
    return [json.loads(path.read_text()) for path in paths if path.is_file()]


def rows_of(results: list[dict[str, Any]]) -> list[Row]:
    """All rows of some results."""
    return [Row(**row) for result in results for row in result["rows"]]


def write(results: list[dict[str, Any]], output: Path) -> None:
    """Write and print the table; draw the plot where matplotlib is installed."""
    about, rows = results[0]["about"], rows_of(results)
    parts = [markdown.BEGIN, markdown.heading(about), "", markdown.comparison_table(rows)]
    inference = [row for row in rows if row.bench == "inference"]
    parts += ["", markdown.sweep_table(inference)] if inference else []
    text = "\n".join([*parts, markdown.END])
    (output / "table.md").write_text(text + "\n")
    print(text)
    try:
        from perf.harness import plots
    except ImportError:
        print("no plot: matplotlib is not installed; --draw makes it later, where it is")
        return
    plots.save(plots.overview(rows, about["caches"]), output / "speed.png")
    print(output / "speed.png")


if __name__ == "__main__":
    main()
