"""The rows of one shard on their way into its file: good ones in blocks, bad ones counted."""

from collections.abc import Callable
from typing import Literal, TypedDict

import numpy as np

from data_tools.batch import Rows
from data_tools.schema import Schema
from data_tools.sources.list_buffer import ListBuffer

MAX_KEPT = 100  # bad lines
MAX_TEXT = 4096  # characters of a kept line


class Reject(TypedDict):
    """A bad line: its number, what is wrong with it, and its beginning."""

    line: int
    reason: str
    text: str


class BadLineError(Exception):
    """A bad line of a shard, which stops the ingest.

    Attributes
    ----------
    line : int
        Counted from 1 at the beginning of the shard.
    reason : str
    """

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(line, reason)
        self.line = line
        self.reason = reason


class RowBuffer:
    """Collect the rows of a shard, and hand on every full block of them.

    Parameters
    ----------
    schema : Schema
    index_dtype : {"uint32", "uint64"}
    labelled : bool
    block_rows : int
        Rows of a block.
    order : {"C", "F"}
        Memory order: by rows, or by columns.
    write : callable(Rows)
        Receives each block. Its arrays are overwritten afterwards.
    skip : bool
        Whether bad lines are skipped; otherwise the first one is an error.
    max_length : int, optional
        Only the last ids of a longer list are kept.

    Attributes
    ----------
    labels : ndarray, (block_rows,) float32
    dense : ndarray, (block_rows, num_dense) float32
    indices : ndarray, (block_rows, num_categorical) uint32 or uint64
    lists : tuple of ListBuffer
        Of the multi-hot columns.
    filled : int
        Rows in the current block; the next row goes there.
    rows, positives : int
        Rows so far, and those with label 1.
    lines : int
        Lines so far, good and bad; counted by the reader of the lines.
    rejected : int
        Bad lines so far.
    rejects : list of Reject
        The first bad lines.
    """

    def __init__(
        self,
        schema: Schema,
        index_dtype: str,
        labelled: bool,
        block_rows: int,
        order: Literal["C", "F"],
        write: Callable[[Rows], None],
        skip: bool = False,
        max_length: int | None = None,
    ) -> None:
        self.labels = np.zeros(block_rows, np.float32)
        self.dense = np.zeros((block_rows, schema.num_dense), np.float32, order)
        self.indices = np.zeros((block_rows, schema.num_categorical), index_dtype, order)
        self.lists = tuple(
            ListBuffer(index_dtype, weights is not None, block_rows, max_length)
            for _, weights in schema.lists
        )
        self.filled = self.rows = self.positives = self.lines = self.rejected = 0
        self.rejects: list[Reject] = []
        self._labelled, self._write, self._skip = labelled, write, skip

    def advance(self, rows: int) -> None:
        """Count the next `rows` rows, which are already in the arrays."""
        self.filled += rows
        self.rows += rows
        if self.filled == len(self.labels):
            self.flush()

    def append(self, rows: Rows) -> None:
        """Copy `rows` in."""
        start, total = 0, len(rows.dense)
        while start < total:
            count = min(len(self.labels) - self.filled, total - start)
            source, target = (slice(first, first + count) for first in (start, self.filled))
            if rows.labels is not None:
                self.labels[target] = rows.labels[source]
            self.dense[target] = rows.dense[source]
            self.indices[target] = rows.indices[source]
            for buffer, lists in zip(self.lists, rows.lists, strict=True):
                offsets = lists.offsets[start : start + count + 1]
                buffer.append(lists._replace(offsets=offsets), self.filled)
            self.advance(count)
            start += count

    def reject(self, line: int, explain: Callable[[], tuple[str, bytes | str]]) -> None:
        """Count a bad line, and keep it if it is among the first.

        Parameters
        ----------
        line : int
            Counted from 1 at the beginning of the shard.
        explain : callable
            Returns the reason and the text. Called only for a line that is kept or is an error.

        Raises
        ------
        BadLineError
            Bad lines are not skipped.
        """
        if not self._skip:
            raise BadLineError(line, explain()[0])
        self.rejected += 1
        if len(self.rejects) < MAX_KEPT:
            reason, text = explain()
            if isinstance(text, bytes):
                text = text[: 4 * MAX_TEXT].decode(errors="replace")
            self.rejects.append({"line": line, "reason": reason, "text": text[:MAX_TEXT]})

    def flush(self) -> None:
        """Hand on the rows of the current block, if there are any."""
        if self.filled:
            labels, dense, indices = (
                array[: self.filled] for array in (self.labels, self.dense, self.indices)
            )
            if self._labelled:
                self.positives += int(np.count_nonzero(labels))
            lists = tuple(buffer.first(self.filled) for buffer in self.lists)
            self._write(Rows(labels if self._labelled else None, dense, indices, lists))
            self.filled = 0
