"""Criteo's text, parsed in one pass over its bytes: no string, no Python object per field.

A line is TAB-separated: the label where there is one, then the dense, then the categorical
fields. It ends in LF or CRLF.

- label: exactly `0` or `1`.
- dense: empty, or an optional `-` and decimal digits, a number that fits int64.
- categorical: empty (id 0), or 1 to 8 hexadecimal digits of either case.

Everything that runs compiled stands in this file, because Numba's cache notices edits of the
compiled function's own file only.
"""

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from data_tools.schema import Schema

MAX_LINE_BYTES = 1 << 20  # a longer line is an error, so a file without newlines is not slurped

OK, BAD_FIELD, LARGE_NUMBER, LONG_HEX, LONG_LINE = range(5)

_TAB, _LF, _CR, _MINUS, _ZERO, _ONE = (ord(c) for c in "\t\n\r-01")
_SMALL = 4096  # dense values below this are transformed by looking them up

# Value of each byte as a hexadecimal digit, -1 for all others.
_HEX = np.full(256, -1, np.int64)
for _digit in "0123456789abcdefABCDEF":
    _HEX[ord(_digit)] = int(_digit, 16)


@njit(cache=True, nogil=True)
def _transform(value, log1p):
    """log(max(value, 0) + 1), or the value itself."""
    if log1p:
        return np.float32(math.log(max(value, 0.0) + 1.0))
    return np.float32(value)


@njit(cache=True, nogil=True)
def transform_dense(values, log1p):
    """Transform float64 `values` of any shape; NaN, which stands for empty, becomes 0."""
    out = np.empty(values.shape, np.float32)
    for i in range(values.size):
        value = values.flat[i]
        out.flat[i] = np.float32(0) if math.isnan(value) else _transform(value, log1p)
    return out


@njit(cache=True, nogil=True)
def _read_number(data, position, small, log1p):
    """Transformed value, end and error code of the integer at `position`, which is not empty."""
    negative = data[position] == _MINUS
    if negative:
        position += 1
    first = position
    while data[position] == _ZERO:
        position += 1
    significant = position
    magnitude = np.uint64(0)
    while True:
        digit = np.int64(data[position]) - _ZERO
        if digit < 0 or digit > 9:
            break
        magnitude = magnitude * np.uint64(10) + np.uint64(digit)
        position += 1
    if position == first:
        return np.float32(0), position, BAD_FIELD
    # 19 digits fit uint64, so up to there the magnitude is exact.
    if position - significant > 18:
        limit = np.uint64(2**63) if negative else np.uint64(2**63 - 1)
        if position - significant > 19 or magnitude > limit:
            return np.float32(0), position, LARGE_NUMBER
    if magnitude < np.uint64(small.size) and not negative:
        return small[np.int64(magnitude)], position, OK
    value = np.float64(magnitude)
    return _transform(-value if negative else value, log1p), position, OK


@njit(cache=True, nogil=True)
def _read_hex(data, position):
    """Value, end and error code of the hexadecimal digits at `position`, perhaps none."""
    value = np.int64(0)
    if position + 8 < data.size:
        # The usual field, eight digits, with one branch for all of them.
        seen = np.int64(0)
        for i in range(8):
            digit = _HEX[data[position + i]]
            seen |= digit
            value = value << 4 | digit
        if seen >= 0:
            code = OK if _HEX[data[position + 8]] < 0 else LONG_HEX
            return value, position + 8, code
        value = np.int64(0)
    # At most eight digits: one of the eight bytes above was none, or the last LF is that near.
    while _HEX[data[position]] >= 0:
        value = value << 4 | _HEX[data[position]]
        position += 1
    return value, position, OK


@njit(cache=True, nogil=True)
def _parse_line(data, position, dense, indices, row, labelled, small, log1p):
    """Parse one row's features: position after them, an error code, the bad field from 0.

    A field is checked to end when the next begins, by the TAB between them: a branch that is never
    taken costs nothing, where a position chosen by the byte found would delay every next field.
    """
    field = np.int64(labelled)
    for column in range(dense.shape[1]):
        if field > 0:
            if data[position] != _TAB:
                return position, BAD_FIELD, field - 1
            position += 1
        byte = data[position]
        if byte in (_TAB, _LF, _CR):
            dense[row, column] = 0.0
        else:
            number, position, code = _read_number(data, position, small, log1p)
            if code != OK:
                return position, code, field
            dense[row, column] = number
        field += 1
    for column in range(indices.shape[1]):
        if field > 0:
            if data[position] != _TAB:
                return position, BAD_FIELD, field - 1
            position += 1
        value, position, code = _read_hex(data, position)
        if code != OK:
            return position, code, field
        indices[row, column] = value
        field += 1
    if data[position] == _CR:
        position += 1
    if data[position] != _LF:
        return position, BAD_FIELD, field - 1
    return position + 1, OK, field


@njit(cache=True, nogil=True)
def _parse_rows(data, start, labels, dense, indices, labelled, small, log1p, longest):
    """Parse lines from `start` until the data or the room ends, or a line is bad.

    Returns the rows written, the position after them, an error code and the bad field. Every scan
    stops at a byte that is no digit, so none passes the LF that ends the data.
    """
    row = 0
    while start < data.size and row < labels.size:
        position = start
        if labelled:
            byte = data[position]
            if byte != _ZERO and byte != _ONE:
                return row, start, BAD_FIELD, 0
            labels[row] = byte - _ZERO
            position += 1
        position, code, field = _parse_line(
            data, position, dense, indices, row, labelled, small, log1p
        )
        if code != OK:
            return row, start, code, field
        if position - 1 - start > longest:
            return row, start, LONG_LINE, 0
        start = position
        row += 1
    return row, start, OK, 0


@njit(cache=True, nogil=True)
def line_end(data, start):
    """Position of the first LF of `data` from `start` on; the data ends in one."""
    while data[start] != _LF:
        start += 1
    return start


class Parsed(NamedTuple):
    """How far `Parser.parse` came, and what stopped it."""

    rows: int  # rows written
    position: int  # byte after them: the end, the start of a bad line, or where room ran out
    code: int  # OK, or what is wrong with the line at `position`
    field: int  # the bad field of that line, from 0


class Parser:
    """Parse blocks of whole lines of Criteo text.

    Parameters
    ----------
    schema : Schema          Gives the number of dense and categorical fields.
    labelled : bool          Whether each line begins with a label.
    log1p : bool             Dense becomes log(max(x, 0) + 1); else x. Empty is 0 in both.
    max_line_bytes : int     A longer line, its LF not counted, is an error.
    """

    def __init__(
        self, schema: Schema, labelled: bool, log1p: bool, max_line_bytes: int = MAX_LINE_BYTES
    ) -> None:
        self.schema = schema
        self.labelled = labelled
        self.log1p = log1p
        self.max_line_bytes = max_line_bytes
        self.num_fields = schema.num_dense + schema.num_categorical + labelled
        self._small = transform_dense(np.arange(_SMALL, dtype=np.float64), log1p)

    def parse(
        self,
        data: np.ndarray,
        start: int,
        labels: np.ndarray,
        dense: np.ndarray,
        indices: np.ndarray,
    ) -> Parsed:
        """Parse lines of `data` from byte `start` into the rows of three arrays.

        Parameters
        ----------
        data : uint8 (num_bytes,)                     Whole lines; the last byte is LF.
        start : int                                   A line begins here.
        labels : float32 (room,)                      Written; left alone where unlabelled.
        dense : float32 (room, num_dense)             Written, C-contiguous.
        indices : uint32 (room, num_categorical)      Written, C-contiguous.

        Returns
        -------
        Parsed : stops at the end of the data, when the room is full, or before a bad line.

        Raises
        ------
        ValueError : the data does not end in LF, or an array has not the shape or dtype above.
        """
        room = len(labels)
        wanted = (
            ("labels", labels, np.float32, (room,)),
            ("dense", dense, np.float32, (room, self.schema.num_dense)),
            ("indices", indices, np.uint32, (room, self.schema.num_categorical)),
        )
        for name, array, dtype, shape in wanted:
            if array.dtype != dtype or array.shape != shape or not array.flags.c_contiguous:
                raise ValueError(
                    f"{name} must be C-contiguous {np.dtype(dtype)} {shape}, "
                    f"not {array.dtype} {array.shape}"
                )
        if data.dtype != np.uint8 or data.ndim != 1 or (data.size and data[-1] != _LF):
            raise ValueError("data must be uint8, one-dimensional, and end in a line feed")
        if not 0 <= start <= data.size:
            raise ValueError(f"start is {start}, but data has {data.size} bytes")
        return Parsed(
            *_parse_rows(
                data,
                start,
                labels,
                dense,
                indices,
                self.labelled,
                self._small,
                self.log1p,
                self.max_line_bytes,
            )
        )

    def explain(self, line: bytes, code: int, field: int) -> str:
        """Say why `line` (without its LF) is bad, where `parse` found `code` at `field`.

        What spoils the whole line (its length, its encoding, its number of fields) comes before
        what spoils one field.
        """
        whole = whole_line_error(line, self.max_line_bytes)
        if whole:
            return whole
        fields = line.removesuffix(b"\r").decode().split("\t")
        if len(fields) != self.num_fields:
            here, other = ("", "un") if self.labelled else ("un", "")
            reason = f"expected {self.num_fields} fields ({here}labelled), found {len(fields)}"
            if len(fields) == len(self.schema.names) - self.labelled:
                reason += f" as {other}labelled lines have; most of the file's first lines decide"
            return reason
        column = field + (not self.labelled)
        text = fields[field] if len(fields[field]) <= 60 else fields[field][:60] + "..."
        rule = self._rule(code, column)
        return f"field {field + 1} ({self.schema.names[column]}) is {text!r}, {rule}"

    def _rule(self, code: int, column: int) -> str:
        """Say which rule a field of `column` (0 is the label) broke, given the error code."""
        if code == LARGE_NUMBER:
            return "which does not fit a signed 64-bit integer"
        if code == LONG_HEX:
            return "which has more than 8 hexadecimal digits"
        if column == 0:
            return "but the label must be 0 or 1"
        if column <= self.schema.num_dense:
            return "but a dense field must be empty or an integer"
        return "but a categorical field must be empty or hexadecimal"


def whole_line_error(line: bytes, max_line_bytes: int = MAX_LINE_BYTES) -> str | None:
    """Say why `line` is no line of text (too long, not UTF-8, a NUL in it), or return None."""
    if len(line) > max_line_bytes:
        return f"the line is longer than {max_line_bytes:,} bytes"
    try:
        line.decode()
    except UnicodeDecodeError as error:
        return f"not UTF-8: byte 0x{line[error.start]:02x} at byte {error.start + 1} of the line"
    if b"\0" in line:
        return f"a NUL byte at byte {line.index(0) + 1} of the line"
    return None
