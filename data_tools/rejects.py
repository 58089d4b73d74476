"""What happens to bad lines: the first one stops the ingest, or they are counted and shown."""

import json
from collections.abc import Callable
from pathlib import Path

from data_tools.errors import ParseError

REJECTS_NAME = "rejects.jsonl"
MAX_KEPT = 100
MAX_TEXT = 4096  # characters of a kept line


class Rejects:
    """Receive bad lines; `skip` says whether they are tolerated.

    Attributes
    ----------
    count : int      Bad lines so far.
    """

    def __init__(self, skip: bool) -> None:
        self.skip = skip
        self.count = 0
        self._kept: list[dict[str, str | int]] = []

    def add(self, file: Path, line: int, explain: Callable[[], tuple[str, bytes | str]]) -> None:
        """Count the bad line, and keep it if it is among the first.

        `explain` returns its reason and text. Only lines that are kept or stop need them.

        Raises
        ------
        ParseError : bad lines are not tolerated.
        """
        if not self.skip:
            raise ParseError(file, line, explain()[0])
        self.count += 1
        if len(self._kept) < MAX_KEPT:
            reason, text = explain()
            if isinstance(text, bytes):
                text = text[: 4 * MAX_TEXT].decode(errors="replace")
            self._kept.append(
                {"file": str(file), "line": line, "reason": reason, "text": text[:MAX_TEXT]}
            )

    def save(self, folder: Path) -> None:
        """Write the kept lines to `folder` as JSON lines, if there are any."""
        if self._kept:
            lines = "".join(json.dumps(line) + "\n" for line in self._kept)
            (folder / REJECTS_NAME).write_text(lines, encoding="utf-8")
