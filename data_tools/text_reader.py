"""Blocks of whole lines of a text file, plain or gzipped, in constant memory."""

import gzip
import io
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from data_tools.criteo_parser import MAX_LINE_BYTES

BLOCK_BYTES = 4 << 20
GZIP_ERRORS = (EOFError, gzip.BadGzipFile, zlib.error)
_LF = b"\n"


class DamagedFileError(Exception):
    """The file's compressed stream is cut off or corrupt."""


def open_source(path: Path) -> tuple[io.BufferedIOBase, io.BufferedIOBase]:
    """Open `path` for reading: its text, and its own bytes, whose `tell` shows the progress.

    The two are the same file unless the name ends in `.gz`. Closing the second is enough.

    Raises
    ------
    DamagedFileError : a .gz file is empty, which is no gzip stream.
    """
    raw = open(path, "rb")  # noqa: SIM115 - the caller closes it
    if path.suffix.lower() != ".gz":
        return raw, raw
    if not raw.peek(1):
        raw.close()
        raise DamagedFileError("the .gz file has 0 bytes")
    return gzip.GzipFile(fileobj=raw, mode="rb"), raw


def first_lines(path: Path, num_bytes: int) -> bytes:
    """Return the whole lines among the first bytes of a file, as `LineBlocks` hands them out."""
    return b"".join(block.tobytes() for block in islice(LineBlocks(path, num_bytes), 1))


class LineBlocks:
    """Iterate over blocks of whole lines, each line ending in LF.

    A last line without its LF is given one. Of a line longer than `max_line_bytes` at least the
    first `max_line_bytes + 1` bytes are handed out: enough to see that it is too long.

    Parameters
    ----------
    path : Path              Read as gzip where the name ends in `.gz`.
    block_bytes : int        Bytes to read at a time, at least 1.
    max_line_bytes : int     Longest line, its LF not counted, that is surely handed out whole.

    Attributes
    ----------
    bytes_done : int         How much of the file, as it lies on disk, has been read.

    Yields
    ------
    uint8 (num_bytes,) : valid until the next block is asked for; never empty.

    Raises
    ------
    DamagedFileError : a .gz file is cut off or corrupt; raised after the lines before the damage.
    """

    def __init__(
        self, path: Path, block_bytes: int = BLOCK_BYTES, max_line_bytes: int = MAX_LINE_BYTES
    ) -> None:
        if block_bytes < 1:
            raise ValueError(f"block_bytes is {block_bytes}; it must be at least 1")
        self.path = path
        self.bytes_done = 0
        self._block_bytes = block_bytes
        self._max_line_bytes = max_line_bytes
        # Room for an unfinished line, a block, and the LF that the last line may lack.
        self._buffer = bytearray(max_line_bytes + block_bytes + 1)

    def __iter__(self) -> Iterator[np.ndarray]:
        text, raw = open_source(self.path)
        buffer = self._buffer
        kept = 0  # bytes of an unfinished line at the front of the buffer
        dropping = False  # inside a line that is too long
        with raw:
            while True:
                end, failure = self._fill(text, kept)
                ended = failure is None and end < kept + self._block_bytes
                self.bytes_done = raw.tell()
                if ended and end > 0 and buffer[end - 1 : end] != _LF:
                    buffer[end : end + 1] = _LF
                    end += 1
                start = 0
                if dropping:
                    start = buffer.find(_LF, 0, end) + 1
                    dropping = start == 0
                    start = start or end
                stop = buffer.rfind(_LF, max(start, kept), end) + 1
                if stop > start:
                    yield np.frombuffer(buffer, np.uint8, stop - start, start)
                    start = stop
                kept = end - start
                buffer[:kept] = buffer[start:end]
                if failure:
                    raise DamagedFileError(str(failure)) from failure
                if ended:
                    return
                if kept > self._max_line_bytes:
                    head = bytes(buffer[: self._max_line_bytes + 1])
                    yield np.frombuffer(head + _LF, np.uint8)
                    kept, dropping = 0, True

    def _fill(self, text: io.BufferedIOBase, start: int) -> tuple[int, Exception | None]:
        """Read up to a block into the buffer from `start`: the end, and what stopped it early."""
        view = memoryview(self._buffer)
        end, limit = start, start + self._block_bytes
        while end < limit:
            try:
                # One read at a time, so that the bytes before a damaged place are not lost.
                count = text.readinto1(view[end:limit])
            except GZIP_ERRORS as error:
                return end, error
            if count == 0:
                break
            end += count
        return end, None
