"""Results of a GPU check, written line by line so that a kill loses nothing."""

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
        """Print an exception of the `with` block, and continue after it."""
        try:
            yield
        except Exception:
            traceback.print_exc(file=sys.stdout)
            self.failed.append(what)
            self.add(f"{what}: failed")

    def add(self, work: str, **values: Any) -> None:
        """Print and keep results about some work."""
        self.keep(work, **values)
        shown = ", ".join(f"{name} {_short(value)}" for name, value in values.items() if value)
        print(f"  {work}: {shown}", flush=True)

    def keep(self, work: str, **values: Any) -> None:
        """Keep results without printing them."""
        with self._path.open("a") as file:
            file.write(json.dumps({"section": self._section, "work": work, **values}) + "\n")

    def time(self, work: str, times: Times, unit: str = "ms", **values: Any) -> None:
        """Add quartiles of times, and the rate where the bytes of one call are given."""
        moved = values.get("bytes")
        if moved and times.median > 0:
            values["gb_per_s"] = moved / times.median / 1e6
        found = {unit: times.median, "low": times.lower_quartile, "high": times.upper_quartile}
        self.add(work, **found, note=times.note, **values)


def read(folder: Path) -> list[dict[str, Any]]:
    """Every result in a folder."""
    path = folder / RESULTS
    lines = path.read_text().splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines]


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
