"""Compiled bytes of the generator's rows, as Criteo's text has them."""

import numpy as np
import numpy.typing as npt

from data_tools.hashing import U64, word_of
from data_tools.synthetic.kernels import (
    EMPTY_RANK,
    EMPTY_VALUE,
    LABEL_DRAW,
    Integers,
    Params,
    draw_row,
    id_of,
    logit_of,
    sigmoid,
    uniform,
)
from robe_numba._jit import jit

Bytes = npt.NDArray[np.uint8]

MAX_INTEGER_BYTES = 12  # -2147483648 and its tab
HEX_BYTES = 9  # 8 digits and a tab


@jit
def _write_integer(value: int, out: Bytes, at: int) -> int:
    """Decimal digits of `value` at out[at:]; returns the end."""
    if value < 0:
        out[at] = 45  # "-"
        at += 1
        value = -value
    end = at + 1
    rest = value // 10
    while rest > 0:
        end += 1
        rest //= 10
    for i in range(end - 1, at - 1, -1):
        out[i] = 48 + value % 10
        value //= 10
    return end


@jit
def _write_hex(word: np.uint64, out: Bytes, at: int) -> int:
    """Eight lower-case hexadecimal digits at out[at:]; returns the end."""
    for i in range(8):
        digit = int(word >> U64(28 - 4 * i)) & 15
        out[at + i] = 48 + digit if digit < 10 else 87 + digit
    return at + 8


@jit
def _write_row(values: Integers, ranks: Integers, out: Bytes, at: int) -> int:
    """All feature fields, tabs between and a newline after them; returns the end."""
    for column in range(values.shape[0]):
        if values[column] != EMPTY_VALUE:
            at = _write_integer(values[column], out, at)
        out[at] = 9
        at += 1
    for column in range(ranks.shape[0]):
        if ranks[column] != EMPTY_RANK:
            at = _write_hex(id_of(column, ranks[column]), out, at)
        out[at] = 9
        at += 1
    out[at - 1] = 10
    return at


@jit
def text(first: int, rows: int, labelled: bool, p: Params, out: Bytes) -> int:
    """Write rows first .. first + rows - 1 to `out` uint8; returns the number of bytes.

    `out` has room for `row_bytes` of every row.
    """
    values = np.empty(p.mu.shape[0], np.int64)
    ranks = np.empty(p.head.shape[0], np.int64)
    at = 0
    for i in range(rows):
        key = draw_row(first + i, p, values, ranks)
        if labelled:
            clicked = uniform(word_of(key, LABEL_DRAW)) < sigmoid(logit_of(values, ranks, p))
            out[at] = 49 if clicked else 48
            out[at + 1] = 9
            at += 2
        at = _write_row(values, ranks, out, at)
    return at


def row_bytes(num_dense: int, num_categorical: int) -> int:
    """Most bytes that one line can take."""
    return 2 + num_dense * MAX_INTEGER_BYTES + num_categorical * HEX_BYTES
