"""Blocks of whole lines of a text file, plain or compressed, in constant memory."""

import codecs
from collections.abc import Generator
from contextlib import closing
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from data_tools.errors import ParseError
from data_tools.sources.criteo.parser import MAX_LINE_BYTES
from data_tools.sources.file_types import (
    HEAD_BYTES,
    DamagedFileError,
    OpenText,
    compression,
    inflated,
    other_than_text,
)
from data_tools.storage.folders import open_input

BLOCK_BYTES = 1 << 20  # stays in a core's second-level cache from its reading to its parsing
BOM = codecs.BOM_UTF8
_LF = b"\n"


class TextBlock(NamedTuple):
    """Some whole lines."""

    offset: int  # of the first line in the text
    lines: np.ndarray  # uint8 (num_bytes,), ends in LF, never empty; valid until the next block

    def count_lines(self) -> int:
        """Count the lines."""
        return int(np.count_nonzero(self.lines == ord("\n")))


def first_bytes(address: str) -> bytes:
    """The beginning of a file as it is on disk, perhaps compressed."""
    with open_input(address) as raw:
        return raw.read(HEAD_BYTES)


def is_compressed(address: str) -> bool:
    """Whether a file is a compressed stream, which cannot be entered in the middle.

    Raises
    ------
    DamagedFileError
        Its name ends like that of a compressed file, but it is neither compressed nor text.
    """
    with open_input(address) as raw:
        return compression(raw, address) is not None


def open_text(address: str) -> OpenText:
    """Open a file for reading: its text, and its own bytes. Close both, which may be the same.

    Raises
    ------
    DamagedFileError
        See `is_compressed`.
    ModuleNotFoundError
        Gzip needs isal, which is not installed.
    """
    raw = open_input(address)
    try:
        return inflated(raw, compression(raw, address), address)
    except BaseException:
        raw.close()
        raise


def first_lines(address: str, num_bytes: int) -> bytes:
    """Return the whole lines among the first bytes of a file, as `LineBlocks` hands them out.

    Raises
    ------
    ParseError
        The file is known to hold something other than text.
    DamagedFileError
        It is damaged before there is a line.
    """
    with closing(iter(LineBlocks(address, num_bytes))) as blocks:
        text = b"".join(block.lines.tobytes() for block in islice(blocks, 1))
    other = other_than_text(text[:HEAD_BYTES])
    if other:
        inside = ", decompressed," if is_compressed(address) else ""
        raise ParseError(address, 1, f"the file{inside} is {other}")
    return text


def lines_end(lines: np.ndarray, limit: int) -> int:
    """End of those of some whole lines that begin before byte `limit`, at least 1, of the array."""
    if limit >= lines.size:
        return lines.size
    return bytes(lines[limit - 1 :]).index(_LF) + limit


class LineBlocks:
    """Iterate over blocks of whole lines, each line ending in LF.

    Close an iterator that is not used up (`contextlib.closing`): left to the garbage collector, the
    thread that inflates would be waited for at a moment at which that can be a deadlock.

    A last line without its LF is given one. Of a line longer than `max_line_bytes` at least the
    first `max_line_bytes + 1` bytes are handed out: enough to see that it is too long.

    Parameters
    ----------
    address : str
        A compressed stream is read as what it holds.
    block_bytes : int
        Bytes to read at a time, at least 1.
    max_line_bytes : int
        Longest line, its LF not counted, that is surely handed out whole.
    begin, end : int
        Lines that begin at these bytes of the text, `end` excluded; `begin` is 0 for a compressed
        file, which cannot be entered in the middle.

    Attributes
    ----------
    bytes_done : int
        Bytes of the file on disk that have been read.

    Yields
    ------
    TextBlock

    Raises
    ------
    DamagedFileError
        A compressed file is damaged; raised after the lines before the damage.
    """

    def __init__(
        self,
        address: str,
        block_bytes: int = BLOCK_BYTES,
        max_line_bytes: int = MAX_LINE_BYTES,
        begin: int = 0,
        end: int | None = None,
    ) -> None:
        if block_bytes < 1:
            raise ValueError(f"block_bytes is {block_bytes}; it must be at least 1")
        self.address = address
        self.bytes_done = 0
        self._block_bytes = block_bytes
        self._max_line_bytes = max_line_bytes
        self._begin = begin
        self._end = end
        # Room for an unfinished line, a block, and the LF that the last line may lack.
        self._buffer = bytearray(len(BOM) + max_line_bytes + block_bytes + 1)

    def __iter__(self) -> Generator[TextBlock, None, None]:
        opened = open_text(self.address)
        with opened.raw, opened.text:
            for block in self._blocks(opened):
                limit = block.lines.size if self._end is None else self._end - block.offset
                if limit <= 0:
                    return
                stop = lines_end(block.lines, limit)
                yield TextBlock(block.offset, block.lines[:stop])
                if stop < block.lines.size:
                    return

    def _blocks(self, opened: OpenText) -> Generator[TextBlock, None, None]:
        """Blocks of whole lines from `begin` on, perhaps beyond `end`."""
        buffer = self._buffer
        # The line that begins at `begin` follows a line feed, perhaps the byte before it.
        offset = max(self._begin - 1, 0)  # of the buffer's front in the text
        dropping = offset < self._begin  # inside a line that is not handed out
        if offset:
            opened.text.seek(offset)
        kept = 0  # bytes of an unfinished line at the front of the buffer
        while True:
            end, failure = self._fill(opened, kept)
            ended = failure is None and end < kept + self._block_bytes
            self.bytes_done = opened.raw.tell()
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
                yield TextBlock(
                    offset + start, np.frombuffer(buffer, np.uint8, stop - start, start)
                )
                start = stop
            kept = end - start
            buffer[:kept] = buffer[start:end]
            offset += start
            if failure:
                raise DamagedFileError(str(failure)) from failure
            if ended or (dropping and self._end is not None and offset >= self._end):
                return
            # A byte order mark is not part of the first line, but is handed out with it.
            longest = self._max_line_bytes + (len(BOM) if offset == 0 else 0)
            if kept > longest:
                head = bytes(buffer[: longest + 1])
                yield TextBlock(offset, np.frombuffer(head + _LF, np.uint8))
                offset += kept
                kept, dropping = 0, True

    def _fill(self, opened: OpenText, start: int) -> tuple[int, Exception | None]:
        """Read up to a block into the buffer from `start`: the end, and what stopped it early."""
        view = memoryview(self._buffer)
        end, limit = start, start + self._block_bytes
        # One read at a time, so that the bytes before a damaged place are not lost.
        text: Any = opened.text
        read = getattr(text, "readinto1", None) or text.readinto
        while end < limit:
            try:
                count = read(view[end:limit])
            except opened.errors as error:
                if getattr(error, "errno", None):  # of the disk or the network, not of the stream
                    raise
                return end, error
            if count == 0:
                break
            end += count
        return end, None
