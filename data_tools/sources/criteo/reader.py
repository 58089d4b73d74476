"""Rows of Criteo text, from blocks of its lines into a RowBuffer."""

from functools import partial

from data_tools.errors import ParseError
from data_tools.schema import Schema
from data_tools.sources.criteo.kernels import OK, line_end
from data_tools.sources.criteo.parser import Parser, whole_line_error
from data_tools.sources.lines import BOM, TextBlock, first_lines
from data_tools.sources.row_buffer import RowBuffer

SAMPLE_BYTES = 1 << 20  # read first, to find out whether the lines are labelled


def is_labelled(address: str, schema: Schema) -> bool:
    """Whether most of the file's first lines are labelled; in a tie the first line decides.

    So one broken line does not decide.

    Raises
    ------
    ParseError
        The file is empty, or none of its first lines fits the schema.
    DamagedFileError
        A compressed file is damaged at its beginning.
    """
    lines = first_lines(address, SAMPLE_BYTES).split(b"\n")[:-1]
    if not lines:
        raise ParseError(
            address, 1, "the file is empty; leave it out, or check whether its download failed"
        )
    fields = len(schema.names)
    counts = [line.count(b"\t") + 1 for line in lines]
    votes = [count == fields for count in counts if count in (fields, fields - 1)]
    if not votes:
        reason = (
            f"none of the first {len(lines)} lines has {fields} fields (labelled) or {fields - 1} "
            f"(unlabelled), the first has {counts[0]}: it is not Criteo text with the columns of "
            "the schema; read a table with a header with --format csv, and --separator"
        )
        raise ParseError(address, 1, whole_line_error(lines[0]) or reason)
    return 2 * sum(votes) + votes[0] > len(votes)


def read_lines(parser: Parser, block: TextBlock, rows: RowBuffer) -> None:
    """Parse all lines of a block into `rows`, which also counts them.

    A UTF-8 byte order mark at the beginning of the text is skipped.
    """
    text = block.lines
    start = 0
    if block.offset == 0 and text[: len(BOM)].tobytes() == BOM:
        start = len(BOM)
    while start < text.size:
        parsed = parser.parse(text, start, rows.labels, rows.dense, rows.indices, rows.filled)
        rows.advance(parsed.rows)
        rows.lines += parsed.rows
        start = parsed.position
        if parsed.code != OK:
            end = line_end(text, start)
            line = text[start:end].tobytes()
            rows.lines += 1
            rows.reject(rows.lines, partial(_explain, parser, line, parsed.code, parsed.field))
            start = end + 1


def _explain(parser: Parser, line: bytes, code: int, field: int) -> tuple[str, bytes]:
    return parser.explain(line, code, field), line
