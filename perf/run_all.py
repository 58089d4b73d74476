"""Every benchmark, one after the other, each in a process of its own; one table and one picture.

python perf/run_all.py                    leaves table.md, speed.png and JSON in runs/perf
python perf/run_all.py --shape tiny       seconds, to see that everything works
python perf/run_all.py --draw             table and picture of what an earlier call measured
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import command
import tables
from timing import Row

FOLDER = Path(__file__).resolve().parent
# Each script, and about how many minutes it took on 2 cores, for the time that is left.
SCRIPTS = {
    "bench_hash": 0.3,
    "bench_lookup": 1.0,
    "bench_bag": 5.5,
    "bench_update": 1.2,
    "bench_interaction": 0.3,
    "bench_dlrm": 1.2,
    "sweeps": 3.0,
}


def main() -> None:
    """Measure what is asked for, then write the table and the picture."""
    options, passed_on = parse()
    options.output.mkdir(parents=True, exist_ok=True)
    if not options.draw:
        measure(options.output, passed_on)
    files = [options.output / f"{script}.json" for script in SCRIPTS]
    results = [json.loads(path.read_text()) for path in files if path.is_file()]
    if not results:
        sys.exit(f"{options.output} has no results; run this without --draw")
    write(results, options.output)


def parse() -> tuple[argparse.Namespace, list[str]]:
    """The command line, and which part of it every benchmark gets."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    command.add_common(parser)
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


def measure(output: Path, passed_on: list[str]) -> None:
    """Run every script; a process that ends gives all of its memory back."""
    begun, done = time.monotonic(), 0.0
    for position, (script, minutes) in enumerate(SCRIPTS.items(), 1):
        left = sum(SCRIPTS.values()) - done
        if done:  # as fast as the scripts so far, against what was expected of them
            left *= (time.monotonic() - begun) / 60 / done
        known = "" if "tiny" in passed_on else f", about {left:.0f} minutes left"
        print(f"[{position}/{len(SCRIPTS)}] {script}{known}", flush=True)
        path = [str(FOLDER / f"{script}.py"), "--json", str(output / f"{script}.json")]
        subprocess.run([sys.executable, *path, *passed_on], check=True)
        done += minutes


def write(results: list[dict[str, Any]], output: Path) -> None:
    """Leave the table, and the picture where matplotlib is installed; print the table."""
    about = results[0]["about"]
    rows = [Row(**row) for result in results for row in result["rows"]]
    text = "\n".join([tables.BEGIN, tables.heading(about), "", tables.markdown(rows), tables.END])
    (output / "table.md").write_text(text + "\n")
    print(text)
    try:
        import pictures
    except ImportError:
        print("no picture: matplotlib is not installed; --draw makes it later, where it is")
        return
    pictures.save(pictures.overview(rows, about["caches"]), output / "speed.png")
    print(output / "speed.png")


if __name__ == "__main__":
    main()
