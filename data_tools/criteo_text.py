"""Rows of one Criteo text file, from its blocks of lines into a ShardWriter."""

import codecs
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from data_tools.criteo_parser import OK, Parser, line_end, whole_line_error
from data_tools.errors import ParseError
from data_tools.rejects import Rejects
from data_tools.schema import Schema
from data_tools.shards import ShardWriter
from data_tools.text_reader import BLOCK_BYTES, DamagedFileError, LineBlocks, first_lines

BOM = codecs.BOM_UTF8
SAMPLE_BYTES = 1 << 20  # read beforehand, to see whether the lines are labelled


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

    Whether the file is labelled is decided by the number of fields that most of its first lines
    have, so one broken line does not decide it. A UTF-8 byte order mark is skipped.

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
        none of its first lines fits the schema; or it has labels and should not, or the reverse.
    """
    file = None
    blocks = LineBlocks(path, block_bytes)
    try:
        labelled = _is_labelled(path, writer.schema)
        writer.agree_on_labels(path, labelled)
        file = _TextFile(path, writer, rejects, Parser(writer.schema, labelled, log1p))
        for block in blocks:
            file.read_block(block)
            report(blocks.bytes_done)
    except DamagedFileError as error:
        # Also with on_error="skip": an unknown number of rows is lost, not one bad line.
        raise ParseError(
            path,
            file.line if file else 1,
            f"the .gz file is cut off or corrupt from here on ({error})",
        ) from error


def _is_labelled(path: Path, schema: Schema) -> bool:
    """Whether more of the file's first lines are labelled than not; of as many, its first one."""
    lines = first_lines(path, SAMPLE_BYTES).split(b"\n")[:-1]
    if not lines:
        raise ParseError(
            path, 1, "the file is empty; leave it out, or see whether its download failed"
        )
    fields = len(schema.names)
    counts = [line.count(b"\t") + 1 for line in lines]
    votes = [count == fields for count in counts if count in (fields, fields - 1)]
    if not votes:
        reason = (
            f"none of the first {len(lines)} lines has {fields} fields (labelled) or {fields - 1} "
            f"(unlabelled), the first has {counts[0]}; is it Criteo text with the columns of the "
            "schema?"
        )
        raise ParseError(path, 1, whole_line_error(lines[0]) or reason)
    return 2 * sum(votes) + votes[0] > len(votes)


class _TextFile:
    """Where the reading of one file is."""

    def __init__(self, path: Path, writer: ShardWriter, rejects: Rejects, parser: Parser) -> None:
        self.line = 1
        self._path = path
        self._writer = writer
        self._rejects = rejects
        self._parser = parser

    def read_block(self, block: np.ndarray) -> None:
        """Parse all lines of `block`, uint8, into the writer."""
        start = 0
        if self.line == 1 and block[: len(BOM)].tobytes() == BOM:
            start = len(BOM)
        while start < block.size:
            parsed = self._parser.parse(block, start, *self._writer.room())
            self._writer.advance(parsed.rows)
            self.line += parsed.rows
            start = parsed.position
            if parsed.code != OK:
                end = line_end(block, start)
                line = block[start:end].tobytes()
                self._rejects.add(
                    self._path, self.line, partial(self._explain, line, parsed.code, parsed.field)
                )
                self.line += 1
                start = end + 1

    def _explain(self, line: bytes, code: int, field: int) -> tuple[str, bytes]:
        return self._parser.explain(line, code, field), line
