r"""Kernels of the Criteo parser: one pass over the bytes, no string, no Python object per field.

A line is TAB-separated: the label where there is one, then the dense, then the categorical
fields. It ends in LF or CRLF.

- label: `0` or `1`.
- dense: missing, or an optional `-` and decimal digits, a number that fits int64.
- categorical: missing (id 0), or 1 to 8 hexadecimal digits of either case.

Missing is an empty field, `NULL`, `\N`, `NaN` or `nan`. A label or number may end in `.0`, as
pandas writes them beside missing ones. All of these except empty fields are called odd. A second
kernel reads them, so that the first, which parses most logs, stays simple.

Eight bytes of a field are read at a time, as one word. Words, positions and rows are uint64,
because with int64 they would make float64, and a signed index is tested for being negative.
"""

import math

import numpy as np

from data_tools.options import DENSE_TRANSFORMS
from data_tools.sources.criteo.byte_words import (
    decimal_word,
    hex_word,
    load_word,
    non_digits,
    trailing_zeros,
    u64,
)
from robe_numba._jit import jit, scalar

OK, BAD_FIELD, LARGE_NUMBER, LONG_LINE = range(4)

_LOG1P, _NONE, _LOG3, _LOG_SQUARED = range(len(DENSE_TRANSFORMS))
_TAB, _LF, _CR, _MINUS, _ZERO, _ONE, _POINT, _BACKSLASH = (ord(c) for c in "\t\n\r-01.\\")
_N, _A, _U, _L, _n, _a = (ord(c) for c in "NAULna")

# Value of each byte as a hexadecimal digit, -1 for all others.
_HEX = np.full(256, -1, np.int64)
for _digit in "0123456789abcdefABCDEF":
    _HEX[ord(_digit)] = int(_digit, 16)

# Functions that run once per field do not count references to arrays: that is atomic, and would
# take longer than the field. All but the rare ones are compiled into their callers (`scalar`).
_rare = jit(_nrt=False)


@_rare
def transform_value(value, transform):
    """Transform one float64, which is not NaN, by the rule of that number in DENSE_TRANSFORMS."""
    if transform == _LOG1P:
        value = math.log(max(value, 0.0) + 1.0)
    elif transform == _LOG3:
        value = math.log(max(value, -2.0) + 3.0)
    elif transform == _LOG_SQUARED and value > 2.0:
        value = np.floor(math.log(value) ** 2)
    return np.float32(value)


@jit
def transform_all(values, transform):
    """`transform_value` of every value, and of 0 for every NaN."""
    out = np.empty(values.shape, np.float32)
    for i in range(values.size):
        value = values.flat[i]
        out.flat[i] = transform_value(0.0 if math.isnan(value) else value, transform)
    return out


@_rare
def _read_any_number(data, position, transform):
    """Do as `_read_number`, byte by byte, with any bytes."""
    negative = data[position] == _MINUS
    if negative:
        position += u64(1)
    first = position
    while data[position] == _ZERO:
        position += u64(1)
    significant = position
    magnitude = u64(0)
    while True:
        digit = u64(data[position]) - u64(_ZERO)  # of a byte before "0" it is large
        if digit > u64(9):
            break
        magnitude = magnitude * u64(10) + digit
        position += u64(1)
    if negative and position == first:
        return np.float32(0), position, BAD_FIELD
    # 19 digits fit uint64, so up to there the magnitude is exact.
    if position - significant > u64(18):
        limit = u64(2**63) if negative else u64(2**63 - 1)
        if position - significant > u64(19) or magnitude > limit:
            return np.float32(0), position, LARGE_NUMBER
    value = np.float64(magnitude)
    return transform_value(-value if negative else value, transform), position, OK


@scalar
def _read_number(data, position, small, transform):
    """Transformed value, end and error code of the integer at `position`.

    No digits are the number 0. So empty fields, which are many and come at random, take no branch
    of their own; junk is found by the check that follows every field.
    """
    if position + u64(8) <= u64(data.size):
        word = load_word(data, position)
        ends = non_digits(word)
        if ends != 0 and (word & u64(0xFF)) != _MINUS:
            magnitude = decimal_word(word, ends)
            position += trailing_zeros(ends) >> u64(3)
            if magnitude < u64(small.size):
                return small[magnitude], position, OK
            return transform_value(np.float64(magnitude), transform), position, OK
    return _read_any_number(data, position, transform)


@scalar
def _read_id(data, position):
    """Value and end of the hexadecimal digits at `position`, if there are any."""
    if data[position] < _ZERO:  # no digit is: an empty field
        return u64(0), position
    if position + u64(8) <= u64(data.size):
        value, good = hex_word(load_word(data, position))
        if good:
            return value, position + u64(8)
    # At most seven digits: one of the next eight bytes is not a digit, or is past the last LF.
    value = u64(0)
    while _HEX[data[position]] >= 0:
        value = value << u64(4) | u64(_HEX[data[position]])
        position += u64(1)
    return value, position


@_rare
def _skip_missing(data, position):
    r"""The end of `NULL`, `\N`, `NaN` or `nan` if it is at `position`; else `position`.

    The data ends in an LF, which none of them has, so no byte after it is read.
    """
    first = data[position]
    if first == _BACKSLASH and data[position + u64(1)] == _N:
        return position + u64(2)
    if first != _N and first != _n:
        return position
    second = data[position + u64(1)]
    if second == _a and data[position + u64(2)] == first:
        return position + u64(3)
    if first == _N and second == _U and data[position + u64(2)] == _L:
        return position + u64(4) if data[position + u64(3)] == _L else position
    return position


@_rare
def _skip_zeros(data, position):
    """The end of `.0`, with any number of zeros, if it is at `position`; else `position`."""
    if data[position] == _POINT and data[position + u64(1)] == _ZERO:
        position += u64(2)
        while data[position] == _ZERO:
            position += u64(1)
    return position


@_rare
def _read_odd_number(data, position, small, transform):
    """Do as `_read_number`, but read odd fields too."""
    end = _skip_missing(data, position)
    if end != position:
        return transform_value(0.0, transform), end, OK
    number, end, code = _read_number(data, position, small, transform)
    if code == OK and end != position:
        end = _skip_zeros(data, end)
    return number, end, code


@_rare
def _read_odd_id(data, position):
    """Do as `_read_id`, but read odd fields too."""
    end = _skip_missing(data, position)
    return (u64(0), end) if end != position else _read_id(data, position)


@scalar
def _parse_line(data, position, dense, indices, row, labelled, small, transform, odd):
    """Parse one row's features: position after them, an error code, the bad field from 0.

    A field is checked to end when the next begins, by the TAB between them: a branch that is never
    taken costs nothing, where a position chosen by the byte found would delay every next field.
    `odd` is a constant to the compiler, so a line without odd fields costs no test for them.
    """
    field = np.int64(labelled)
    for column in range(u64(dense.shape[1])):
        if field > 0:
            if data[position] != _TAB:
                return position, BAD_FIELD, field - 1
            position += u64(1)
        if odd:
            number, position, code = _read_odd_number(data, position, small, transform)
        else:
            number, position, code = _read_number(data, position, small, transform)
        if code != OK:
            return position, code, field
        dense[row, column] = number
        field += 1
    for column in range(u64(indices.shape[1])):
        if field > 0:
            if data[position] != _TAB:
                return position, BAD_FIELD, field - 1
            position += u64(1)
        if odd:
            value, position = _read_odd_id(data, position)
        else:
            value, position = _read_id(data, position)
        indices[row, column] = value
        field += 1
    if data[position] == _CR:
        position += u64(1)
    if data[position] != _LF:
        return position, BAD_FIELD, field - 1
    return position + u64(1), OK, field


def _rows_kernel(odd):
    """Compile the kernel for lines without odd fields, or the one for all lines."""

    @jit
    def parse_rows(data, start, labels, dense, indices, row, labelled, small, transform, longest):
        """Parse lines from `start` into rows from `row` on, until data or room ends or one is bad.

        Returns the row and the position after them, an error code and the bad field. Every scan
        stops at a byte that is no digit, so none passes the LF that ends the data.
        """
        start, row = u64(start), u64(row)
        while start < u64(data.size) and row < u64(labels.size):
            position = start
            if labelled:
                byte = data[position]
                if byte != _ZERO and byte != _ONE:
                    return row, start, BAD_FIELD, 0
                labels[row] = byte - _ZERO
                position += u64(1)
                if odd:
                    position = _skip_zeros(data, position)
            position, code, field = _parse_line(
                data, position, dense, indices, row, labelled, small, transform, odd
            )
            if code != OK:
                return row, start, code, field
            if position - start > u64(longest) + u64(1):  # with its LF
                return row, start, LONG_LINE, 0
            start = position
            row += u64(1)
        return row, start, OK, 0

    return parse_rows


parse_rows, parse_odd_rows = _rows_kernel(odd=False), _rows_kernel(odd=True)


@jit
def line_end(data, start):
    """Position of the first LF of `data` from `start` on; the data ends in one."""
    while data[start] != _LF:
        start += 1
    return start
