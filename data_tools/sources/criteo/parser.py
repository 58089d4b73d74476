"""Criteo's text in blocks of whole lines, parsed into rows; and what is wrong with a bad line."""

import re
from functools import cache
from typing import NamedTuple

import numpy as np

from data_tools.options import DENSE_TRANSFORMS
from data_tools.schema import Schema
from data_tools.sources.criteo.kernels import (
    BAD_FIELD,
    LARGE_NUMBER,
    parse_odd_rows,
    parse_rows,
    transform_all,
)

MAX_LINE_BYTES = 1 << 20  # a longer line is an error, so a file without newlines is not slurped
SMALL_VALUES = 1 << 16  # dense values below this are transformed by looking them up
_LF = ord("\n")
_LONG_HEX = re.compile(r"[0-9a-fA-F]{9}")


def _number_of(transform: str) -> int:
    if transform not in DENSE_TRANSFORMS:
        raise ValueError(
            f"dense_transform is {transform!r}; use one of {', '.join(DENSE_TRANSFORMS)}"
        )
    return DENSE_TRANSFORMS.index(transform)


def transform_dense(values: np.ndarray, transform: str) -> np.ndarray:
    """Transform dense values by one of the rules that are in use for Criteo's logs.

    - "log1p": log(max(x, 0) + 1), of DLRM.
    - "none": x.
    - "log3": log(max(x, -2) + 3), of TorchRec and MLPerf's DLRM-DCNv2, who have no `max`.
    - "log-squared": floor(log(x)^2) where x > 2, else x, of the winners of Criteo's challenge on
      Kaggle, to whom an empty field was a value of its own.

    Empty is transformed as 0 is. Logarithms are natural.

    Parameters
    ----------
    values : float64, any shape
        NaN is an empty field.
    transform : str
        One of DENSE_TRANSFORMS.

    Returns
    -------
    ndarray, the same shape, float32

    Raises
    ------
    ValueError
        The transform is unknown.

    Notes
    -----
    Source: facebookresearch/dlrm, data_utils.py; pytorch/torchrec, torchrec/datasets/criteo.py;
    Juan, Zhuang, Chin, "3 Idiots' Approach for Display Advertising Challenge", 2014.
    """
    result: np.ndarray = transform_all(values, _number_of(transform))
    return result


@cache
def _small_values(transform: str) -> np.ndarray:
    """The transformed numbers 0, 1, ..., made once because that takes longer than a small text."""
    small = transform_dense(np.arange(SMALL_VALUES, dtype=np.float64), transform)
    small.flags.writeable = False
    return small


class Parsed(NamedTuple):
    """How far `Parser.parse` got, and what stopped it."""

    rows: int  # rows written by this call
    position: (
        int  # byte after them: the end, the start of a bad line, or of the first line without room
    )
    code: int  # OK, or what is wrong with the line at `position`
    field: int  # the bad field of that line, from 0


class Parser:
    """Parse blocks of whole lines of Criteo text.

    Parameters
    ----------
    schema : Schema
        Gives the number of dense and categorical fields.
    labelled : bool
        Whether each line begins with a label.
    transform : str
        Of the dense fields, see `transform_dense`.
    max_line_bytes : int
        A longer line, its LF not counted, is an error.
    """

    def __init__(
        self, schema: Schema, labelled: bool, transform: str, max_line_bytes: int = MAX_LINE_BYTES
    ) -> None:
        self.schema = schema
        self.labelled = labelled
        self.max_line_bytes = max_line_bytes
        self.num_fields = schema.num_dense + schema.num_categorical + labelled
        self._transform = _number_of(transform)
        self._small = _small_values(transform)

    def parse(
        self,
        data: np.ndarray,
        start: int,
        labels: np.ndarray,
        dense: np.ndarray,
        indices: np.ndarray,
        first: int = 0,
    ) -> Parsed:
        """Parse lines of `data` from byte `start` into the rows of three arrays from `first` on.

        Parameters
        ----------
        data : ndarray, (num_bytes,) uint8
            Whole lines; contiguous, the last byte is LF.
        start : int
            A line begins here.
        labels : ndarray, (room,) float32
            Written; left alone where unlabelled.
        dense : ndarray, (room, num_dense) float32
            Written; by rows or by columns (C or F order).
        indices : ndarray, (room, num_categorical) uint32
            Written; by rows or by columns.
        first : int
            Row to begin at; those before are left alone.

        Returns
        -------
        Parsed
            It stops at the end of the data, when the arrays are full, or before a bad line.

        Raises
        ------
        ValueError
            The data does not end in LF, an array has another shape or dtype, or `start` or `first`
            is out of range.
        """
        self._check(data, start, labels, dense, indices, first)
        arrays = labels, dense, indices
        constants = self.labelled, self._small, self._transform, self.max_line_bytes
        row, *stopped = parse_rows(data, start, *arrays, first, *constants)
        if stopped[1] in (BAD_FIELD, LARGE_NUMBER):  # or perhaps odd, and so may be those after it
            row, *stopped = parse_odd_rows(data, stopped[0], *arrays, row, *constants)
        return Parsed(row - first, *stopped)

    def _check(
        self,
        data: np.ndarray,
        start: int,
        labels: np.ndarray,
        dense: np.ndarray,
        indices: np.ndarray,
        first: int,
    ) -> None:
        """Refuse arguments that would make compiled code read or write out of bounds."""
        room = len(labels)
        for name, array, dtype, shape in (
            ("labels", labels, np.float32, (room,)),
            ("dense", dense, np.float32, (room, self.schema.num_dense)),
            ("indices", indices, np.uint32, (room, self.schema.num_categorical)),
        ):
            if array.dtype != dtype or array.shape != shape or not array.flags.forc:
                raise ValueError(
                    f"{name} must be C- or F-contiguous {np.dtype(dtype)} {shape}, "
                    f"not {array.dtype} {array.shape}"
                )
        if data.dtype != np.uint8 or data.ndim != 1 or not data.flags.c_contiguous:
            raise ValueError("data must be uint8, one-dimensional and contiguous")
        if data.size and data[-1] != _LF:
            raise ValueError("data must end in a line feed")
        if not 0 <= start <= data.size:
            raise ValueError(f"start is {start}, but data has {data.size} bytes")
        if not 0 <= first <= room:
            raise ValueError(f"first is {first}, but there is room for {room} rows")

    def explain(self, line: bytes, code: int, field: int) -> str:
        """Say why `line` (without its LF) is bad, given that `parse` found `code` at `field`.

        A fault of the whole line (length, encoding, number of fields) comes before one of a field.
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
        rule = self._rule(code, column, fields[field])
        if fields[field].strip().lower() in (name.lower() for name in self.schema.names):
            rule += (
                "; where the line names the columns, read the file with --format csv, or leave the "
                "line out with --on-error skip"
            )
        return f"field {field + 1} ({self.schema.names[column]}) is {text!r}, {rule}"

    def _rule(self, code: int, column: int, text: str) -> str:
        """Say which rule the field `text` of `column` (0 is the label) broke."""
        if code == LARGE_NUMBER:
            return "which does not fit a signed 64-bit integer"
        if column == 0:
            return "but the label must be 0 or 1"
        if column <= self.schema.num_dense:
            return "but a dense field must be empty or an integer"
        if _LONG_HEX.match(text):
            return "which has more than 8 hexadecimal digits"
        return "but a categorical field must be empty or hexadecimal"


def whole_line_error(line: bytes, max_line_bytes: int = MAX_LINE_BYTES) -> str | None:
    """Say why `line` is not text (too long, not UTF-8, or with a NUL), or return None."""
    if len(line) > max_line_bytes:
        return f"the line is longer than {max_line_bytes:,} bytes"
    try:
        line.decode()
    except UnicodeDecodeError as error:
        return f"not UTF-8: byte 0x{line[error.start]:02x} at byte {error.start + 1} of the line"
    if b"\0" in line:
        return f"a NUL byte at byte {line.index(0) + 1} of the line"
    return None
