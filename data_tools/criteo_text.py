"""Rows of one Criteo text file, from its blocks of lines into a ShardWriter."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from data_tools.criteo_parser import OK, Parser, line_end, whole_line_error
from data_tools.errors import ParseError
from data_tools.rejects import Rejects
from data_tools.schema import Schema
from data_tools.shards import ShardWriter
from data_tools.text_reader import BLOCK_BYTES, DamagedFileError, LineBlocks


def read_criteo(
    path: Path,
    writer: ShardWriter,
    rejects: Rejects,
    *,
    log1p: bool,
    report: Callable[[int], None],
    block_bytes: int = BLOCK_BYTES,
) -> None:
    """Append the rows of the Criteo text file `path` to `writer`.

    The first line with the number of fields of a labelled or of an unlabelled line decides which
    of the two the file is; with rejects that stop, that is the first line or none.

    Parameters
    ----------
    path : Path                  Gzip where the name ends in `.gz`.
    writer : ShardWriter         Its index dtype is uint32.
    rejects : Rejects            Receives the bad lines.
    log1p : bool                 Transform of the dense columns, see `Parser`.
    report : callable            Called with the bytes of the file read so far.
    block_bytes : int            Bytes to read at a time.

    Raises
    ------
    ParseError : a bad line that `rejects` does not tolerate; the file is empty, a damaged .gz, or
        has no line that fits the schema; labels are there and were not before, or the reverse.
    """
    file = _TextFile(path, writer, rejects, log1p)
    blocks = LineBlocks(path, block_bytes)
    try:
        for block in blocks:
            file.read_block(block)
            report(blocks.bytes_done)
    except DamagedFileError as error:
        # Also with on_error="skip": an unknown number of rows is lost, not one bad line.
        raise ParseError(
            path, file.line, f"the .gz file is cut off or corrupt from here on ({error})"
        ) from error
    file.finish()


class _TextFile:
    """Where the reading of one file is: its next line, and its parser once that is known."""

    def __init__(self, path: Path, writer: ShardWriter, rejects: Rejects, log1p: bool) -> None:
        self.line = 1
        self._path = path
        self._writer = writer
        self._rejects = rejects
        self._log1p = log1p
        self._parser: Parser | None = None

    def read_block(self, block: np.ndarray) -> None:
        """Parse all lines of `block`, uint8, into the writer."""
        start = 0
        while start < block.size:
            if self._parser is None:
                end = line_end(block, start)
                self._choose_parser(block[start:end].tobytes())
                if self._parser is None:
                    start = end + 1
                continue
            parsed = self._parser.parse(block, start, *self._writer.room())
            self._writer.advance(parsed.rows)
            self.line += parsed.rows
            start = parsed.position
            if parsed.code != OK:
                end = line_end(block, start)
                line = block[start:end].tobytes()
                self._reject(self._parser.explain(line, parsed.code, parsed.field), line)
                start = end + 1

    def _choose_parser(self, line: bytes) -> None:
        """Make the parser that suits the fields of `line`, or reject the line."""
        labelled_fields = _count_fields(self._writer.schema)
        found = line.count(b"\t") + 1
        if found in (labelled_fields, labelled_fields - 1):
            labelled = found == labelled_fields
            self._writer.agree_on_labels(self._path, self.line, labelled)
            self._parser = Parser(self._writer.schema, labelled, self._log1p)
        else:
            count = (
                f"expected {labelled_fields} fields (labelled) or {labelled_fields - 1} "
                f"(unlabelled), found {found}"
            )
            self._reject(whole_line_error(line) or count, line)

    def _reject(self, reason: str, line: bytes) -> None:
        self._rejects.add(self._path, self.line, reason, line)
        self.line += 1

    def finish(self) -> None:
        """Refuse a file in which no line told whether it is labelled."""
        if self._parser is None:
            reason = "the file is empty; leave it out, or see whether its download failed"
            if self.line > 1:
                fields = _count_fields(self._writer.schema)
                reason = (
                    f"no line of the file has {fields} or {fields - 1} fields; "
                    "is it Criteo text with the columns of the schema?"
                )
            raise ParseError(self._path, max(1, self.line - 1), reason)


def _count_fields(schema: Schema) -> int:
    """Fields of a labelled line."""
    return len(schema.names)
