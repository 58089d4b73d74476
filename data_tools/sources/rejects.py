"""What happens to bad lines: the first one stops the ingest, or they are counted and shown."""

from collections.abc import Callable
from typing import TypedDict

REJECTS_NAME = "rejects.jsonl"  # in the folder of the shards
MAX_KEPT = 100
MAX_TEXT = 4096  # characters of a kept line


class Reject(TypedDict):
    """A bad line: its number, what is wrong with it, and how it begins."""

    line: int
    reason: str
    text: str


class BadLineError(Exception):
    """A bad line of a shard, which stops the ingest.

    Attributes
    ----------
    line : int     Counted from 1 at the beginning of the shard.
    reason : str
    """

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(line, reason)
        self.line = line
        self.reason = reason


class Rejects:
    """Receive the bad lines of one shard; `skip` says whether they are tolerated.

    Attributes
    ----------
    lines : int      Lines of the shard so far, good and bad; whoever reads them counts.
    count : int      Bad lines so far.
    kept : list      The first bad lines: line, reason and text.
    """

    def __init__(self, skip: bool) -> None:
        self.skip = skip
        self.lines = 0
        self.count = 0
        self.kept: list[Reject] = []

    def add(self, line: int, explain: Callable[[], tuple[str, bytes | str]]) -> None:
        """Count the bad line, and keep it if it is among the first.

        `explain` returns its reason and text. Only lines that are kept or stop need them.

        Raises
        ------
        BadLineError : bad lines are not tolerated.
        """
        if not self.skip:
            raise BadLineError(line, explain()[0])
        self.count += 1
        if len(self.kept) < MAX_KEPT:
            reason, text = explain()
            if isinstance(text, bytes):
                text = text[: 4 * MAX_TEXT].decode(errors="replace")
            self.kept.append({"line": line, "reason": reason, "text": text[:MAX_TEXT]})
