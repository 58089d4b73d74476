"""What can be wrong with a click log, and with a dataset made from one."""

from pathlib import Path


class ParseError(ValueError):
    """A source could not be read; the message is "FILE:LINE: reason".

    Attributes
    ----------
    file : str
        The source, as it was named.
    line : int
        Counted from 1; of a Parquet file, the row.
    reason : str
        The rule that was broken, the value found and, where there is one, a remedy.
    """

    def __init__(self, file: str | Path, line: int, reason: str) -> None:
        super().__init__(f"{file}:{line}: {reason}")
        self.file = str(file)
        self.line = line
        self.reason = reason

    def __reduce__(self) -> tuple[type["ParseError"], tuple[str, int, str]]:
        return type(self), (self.file, self.line, self.reason)


class DatasetError(ValueError):
    """A folder's manifest or shards are damaged, or do not belong together."""
