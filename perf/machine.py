"""The machine that a figure was measured on."""

import os
import platform
from pathlib import Path


def describe() -> str:
    """Processor and number of cores."""
    name = platform.processor() or platform.machine()
    try:  # Linux says more here than Python knows
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    return f"{name}, {os.cpu_count()} cores"
