"""Peak memory of ingest, each in a process of its own."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_tools.synthetic.generator import Generator
from perf.peers.ingest import Log
from robe_numba.formatting import format_bytes, markdown_table

COPIES = (1, 5, 20)  # copies of the log at which memory is measured
# A child's ru_maxrss starts at its parent's, so on Linux the kernel's own figure is used.
CHILD = """
import resource, sys, time
from data_tools import ingest
begun = time.perf_counter()
ingest(*sys.argv[1:])
seconds = time.perf_counter() - begun
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
if sys.platform == "linux":
    peak = next(int(line.split()[1]) for line in open("/proc/self/status") if "VmHWM" in line)
print(peak * (1 if sys.platform == "darwin" else 1024), seconds)
"""


def empty(folder: Path) -> None:
    """Make an empty folder, and let the system finish writing to the disk."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    os.sync()


def measure(log: Log, folder: Path) -> list[dict[str, Any]]:
    """Peak resident memory of ingest with default options, in processes of their own."""
    need = max(COPIES) * (log.bytes + 200 * log.rows)
    free = shutil.disk_usage(folder).free
    if free < need:
        raise SystemExit(
            f"--memory needs {format_bytes(need, 2)} in {folder}, which has {format_bytes(free, 2)}"
        )
    short, long = folder / "short.tsv", folder / "long.tsv"
    Generator(preset="kaggle").write(short, 1000)
    peak(short, folder)  # compiles what is not in Numba's cache
    found = [{"source": "text", "rows": 1000, **peak(short, folder)}]
    done = 0
    for copies in COPIES:
        with long.open("ab") as copy:
            for _ in range(copies - done):
                with log.text.open("rb") as file:
                    shutil.copyfileobj(file, copy, 1 << 20)
        done = copies
        found.append({"source": "text", "rows": copies * log.rows, **peak(long, folder)})
    found.append({"source": ".gz", "rows": log.rows, **peak(log.gz, folder)})
    short.unlink()
    long.unlink()
    return found


def peak(source: Path, folder: Path) -> dict[str, float]:
    """Peak bytes and seconds of one ingest."""
    empty(folder / "output")
    command = [sys.executable, "-c", CHILD, str(source), str(folder / "output")]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    shutil.rmtree(folder / "output")
    return {"peak_bytes": int(printed[0]), "seconds": float(printed[1])}


def table_of(found: Sequence[dict[str, Any]]) -> str:
    """Peaks as a Markdown table."""
    lines = [
        (m["source"], f"{m['rows']:,}", f"{m['peak_bytes'] / 1e6:.0f}", f"{m['seconds']:.2f}")
        for m in found
    ]
    return markdown_table(("source", "rows", "peak, MB", "s"), lines)
