"""Errors of click logs and of datasets."""

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
        The broken rule, the value found and, if there is one, a remedy.
    """

    def __init__(self, file: str | Path, line: int, reason: str) -> None:
        super().__init__(f"{file}:{line}: {reason}")
        self.file = str(file)
        self.line = line
        self.reason = reason

    def __reduce__(self) -> tuple[type["ParseError"], tuple[str, int, str]]:
        return type(self), (self.file, self.line, self.reason)


class DatasetError(ValueError):
    """The manifest or the shards of a dataset are damaged, or do not belong together."""
