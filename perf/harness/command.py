"""The command line and the output files that all benchmarks share."""

import argparse
import json
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numba
import numpy as np

from perf import peers
from perf.harness import machine, markdown, places
from perf.harness.libraries import openmp_policy, torch_is_first
from perf.harness.places import here
from perf.harness.race import Row, keep_memory

Measure = Callable[[Any, argparse.Namespace], Iterable[Row]]
TINY = "tiny"  # a shape that takes seconds, to see that everything works


def main(
    bench: str,
    description: str,
    shapes: Mapping[str, Any],
    measure: Measure,
    devices: Sequence[str] = ("cpu", "cuda"),
    add_options: Callable[[argparse.ArgumentParser], None] = lambda parser: None,
) -> None:
    """Run one benchmark.

    Parameters
    ----------
    bench : str
        Its name.
    description : str
        The script's docstring.
    shapes : mapping
        The choices of `--shape`; all but those that begin with "tiny" run by default.
    measure : callable
        measure(shape, options) gives the rows of one shape.
    devices : sequence of str
        The devices that it can measure.
    add_options : callable
        Adds its own options to the parser.
    """
    options = parse(description, shapes, devices, add_options)
    places.use(options.device)
    keep_memory()
    set_threads(options.threads)
    print(markdown.heading(about(options)), flush=True)
    rows: list[Row] = []
    for name in options.shape or [name for name in shapes if not name.startswith(TINY)]:
        print(f"{bench} {name} ...", flush=True)
        rows.extend(measure(shapes[name], options))
    if options.json:
        result = {"bench": bench, "about": about(options), "rows": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    print(markdown.table_of(rows))
    if options.plot:
        from perf.harness import plots  # imports matplotlib

        plots.save(plots.times(rows), options.plot)


def parse(
    description: str,
    shapes: Mapping[str, Any],
    devices: Sequence[str],
    add_options: Callable[[argparse.ArgumentParser], None],
) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=description.split("\n")[0])
    add_common(parser, devices)
    parser.add_argument("--shape", choices=shapes, action="append", help="may be repeated")
    parser.add_argument("--json", type=Path, help="write the rows there")
    parser.add_argument("--plot", type=Path, help="draw the times there (needs matplotlib)")
    add_options(parser)
    options = parser.parse_args()
    check(parser, options)
    return options


def add_common(parser: argparse.ArgumentParser, devices: Sequence[str]) -> None:
    """Add the options that `run_all.py` passes on to every benchmark."""
    parser.add_argument("--device", choices=devices, default="cpu")
    parser.add_argument("--threads", type=int, default=numba.config.NUMBA_NUM_THREADS)
    parser.add_argument(
        "--peers", default="all", help=f"all, none, or a list of {','.join(peers.LABELS)}"
    )
    parser.add_argument("--ids", choices=("uniform", "zipf"), default="uniform")
    parser.add_argument("--repeats", type=int, default=15)


def check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Reject options that cannot be met; turn `--peers` into a list of names."""
    if options.device != "cpu" and not getattr(options, "draw", False):
        try:
            places.GPU()
        except (ImportError, OSError) as error:
            parser.error(f"--device {options.device}: {error}")
    if not 1 <= options.threads <= numba.config.NUMBA_NUM_THREADS:
        parser.error(
            f"--threads is {options.threads}; it must be in [1, {numba.config.NUMBA_NUM_THREADS}] "
            f"(NUMBA_NUM_THREADS raises the limit)"
        )
    if options.repeats < 1:
        parser.error(f"--repeats is {options.repeats}; it must be at least 1")
    named = ",".join(peers.LABELS) if options.peers == "all" else options.peers
    options.peers = [name for name in named.split(",") if name != "none"]
    unknown = [name for name in options.peers if name not in peers.LABELS]
    if unknown:
        parser.error(f"--peers has {unknown}; use all, none, or a list of {','.join(peers.LABELS)}")


def set_threads(threads: int) -> None:
    """Set the number of threads, ours and the peers'."""
    numba.set_num_threads(threads)
    peers.set_threads(threads)


def about(options: argparse.Namespace) -> dict[str, Any]:
    """Where and how figures were measured."""
    return {
        "machine": here().describe(),
        "device": options.device,
        "caches": machine.caches(),
        "threads": options.threads,
        "ids": options.ids,
        "repeats": options.repeats,
        "openmp": openmp_policy(),
        "torch first": torch_is_first(),
        "versions": {
            "python": platform.python_version(),
            "numba": numba.__version__,
            "numpy": np.__version__,
            **peers.versions(),
        },
    }
