"""The machine that a figure was measured on."""

import os
import platform
from pathlib import Path


def describe() -> str:
    """Processor and number of cores."""
    name = platform.processor() or platform.machine()
    try:  # Linux knows more than Python's standard library
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    return f"{name}, {os.cpu_count()} cores"


def caches() -> dict[str, int]:
    """Bytes of the first core's data caches, as {"L2": ..., "L3": ...}; on Linux only."""
    found = {}
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            kind, level, size = (
                (folder / name).read_text().strip() for name in ("type", "level", "size")
            )
        except OSError:
            continue
        if kind != "Instruction" and size.endswith("K"):
            found[f"L{level}"] = int(size[:-1]) << 10
    return found
