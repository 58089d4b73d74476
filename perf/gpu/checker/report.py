"""What a check of a GPU finds, kept line by line: a kill loses nothing that was measured."""

import json
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from perf.gpu.device_times import Times

RESULTS = "results.jsonl"


class Report:
    """Results of one section, printed and appended to a file as they come."""

    def __init__(self, folder: Path, section: str):
        self._path, self._section = folder / RESULTS, section
        self.failed: list[str] = []

    @contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """Print an error of what is done within, and go on after it."""
        try:
            yield
        except Exception:
            traceback.print_exc(file=sys.stdout)
            self.failed.append(what)
            self.add(f"{what}: failed")

    def add(self, work: str, **values: Any) -> None:
        """Anything that was found about some work."""
        self.keep(work, **values)
        shown = ", ".join(f"{name} {_short(value)}" for name, value in values.items() if value)
        print(f"  {work}: {shown}", flush=True)

    def keep(self, work: str, **values: Any) -> None:
        """As `add`, without printing."""
        with self._path.open("a") as file:
            file.write(json.dumps({"section": self._section, "work": work, **values}) + "\n")

    def time(self, work: str, times: Times, unit: str = "ms", **values: Any) -> None:
        """Quartiles of times, and for bytes moved by one call the rate."""
        moved = values.get("bytes")
        if moved and times.median > 0:
            values["gb_per_s"] = moved / times.median / 1e6
        found = {unit: times.median, "low": times.lower_quartile, "high": times.upper_quartile}
        self.add(work, **found, note=times.note, **values)


def read(folder: Path) -> list[dict[str, Any]]:
    """Every result of a folder."""
    path = folder / RESULTS
    lines = path.read_text().splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines]


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
