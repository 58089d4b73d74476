"""Rows on their way into a file: collected until they are a block, then handed on."""

from collections.abc import Callable
from typing import Literal

import numpy as np

from data_tools.batch import Batch
from data_tools.schema import Schema


class RowBuffer:
    """Collect rows, and hand on every full block of them.

    Parameters
    ----------
    schema : Schema
    index_dtype : str           "uint32" or "uint64".
    labelled : bool
    block_rows : int            Rows of a block.
    order : {"C", "F"}          Of the memory: by rows, or by columns.
    write : callable(Batch)     Receives each block, which is overwritten afterwards.

    Attributes
    ----------
    labels : float32 (block_rows,)
    dense : float32 (block_rows, num_dense)
    indices : uint (block_rows, num_categorical)
    filled : int                Rows of the block so far: the next goes there.
    rows, positives : int       So far in all.
    """

    def __init__(
        self,
        schema: Schema,
        index_dtype: str,
        labelled: bool,
        block_rows: int,
        order: Literal["C", "F"],
        write: Callable[[Batch], None],
    ) -> None:
        self.labels = np.zeros(block_rows, np.float32)
        self.dense = np.zeros((block_rows, schema.num_dense), np.float32, order)
        self.indices = np.zeros((block_rows, schema.num_categorical), index_dtype, order)
        self.filled = self.rows = self.positives = 0
        self._labelled = labelled
        self._write = write

    def advance(self, rows: int) -> None:
        """Take the next `rows` rows, already in the arrays, as filled."""
        self.filled += rows
        self.rows += rows
        if self.filled == len(self.labels):
            self.flush()

    def append(self, rows: Batch) -> None:
        """Copy `rows` in."""
        start, total = 0, len(rows.dense)
        while start < total:
            count = min(len(self.labels) - self.filled, total - start)
            source, target = (slice(first, first + count) for first in (start, self.filled))
            if rows.labels is not None:
                self.labels[target] = rows.labels[source]
            self.dense[target] = rows.dense[source]
            self.indices[target] = rows.indices[source]
            self.advance(count)
            start += count

    def flush(self) -> None:
        """Hand on what is there, if anything."""
        if self.filled:
            labels, dense, indices = (
                array[: self.filled] for array in (self.labels, self.dense, self.indices)
            )
            if self._labelled:
                self.positives += int(np.count_nonzero(labels))
            self._write(Batch(labels if self._labelled else None, dense, indices))
            self.filled = 0
