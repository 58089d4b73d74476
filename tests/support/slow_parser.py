"""Criteo text parsed by the rules as they are stated, one field after another, in pure Python.

It imports nothing of the package, so the tests can hold the compiled parser against it.
"""

import math

DIGITS = b"0123456789"
HEX_DIGITS = b"0123456789abcdefABCDEF"
MISSING = (b"", b"NULL", b"\\N", b"NaN", b"nan")
TRANSFORMS = {
    "log1p": lambda x: math.log(max(x, 0) + 1),
    "none": float,
    "log3": lambda x: math.log(max(x, -2) + 3),
    "log-squared": lambda x: float(math.floor(math.log(x) ** 2) if x > 2 else x),
}


class BadLineError(Exception):
    """The line breaks a rule."""


def parse(data, num_dense, num_categorical, transform):
    """Parse all of `data`: whether it is labelled, the rows, the numbers of the bad lines.

    A row is (label or None, dense values, ids). Whether the text is labelled is what most of the
    lines with either number of fields say, of as many the first; None where no line tells.
    """
    lines = split(data)
    features = num_dense + num_categorical
    fields = [line.count(b"\t") + 1 for line in lines]
    votes = [count for count in fields if count in (features, features + 1)]
    # `max` returns the first of equals.
    labelled = max(votes, key=votes.count) > features if votes else None
    if labelled is None:
        return None, [], list(range(1, len(lines) + 1))
    return labelled, *parse_lines(lines, labelled, num_dense, num_categorical, transform)


def split(data):
    """Lines without their line feeds; what follows the last one is a line unless it is empty."""
    lines = data.split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    return lines


def parse_lines(lines, labelled, num_dense, num_categorical, transform):
    """The rows of the good lines, and the numbers, from 1, of the bad ones."""
    rows, bad = [], []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(parse_line(line, labelled, num_dense, num_categorical, transform))
        except BadLineError:
            bad.append(number)
    return rows, bad


def parse_line(line, labelled, num_dense, num_categorical, transform):
    """Parse one line, without its line feed."""
    if line.endswith(b"\r"):
        line = line[:-1]
    fields = line.split(b"\t")
    if len(fields) != labelled + num_dense + num_categorical:
        raise BadLineError
    label = None
    if labelled:
        first = without_zeros(fields.pop(0))
        if first not in (b"0", b"1"):
            raise BadLineError
        label = int(first)
    dense = [parse_dense(field, transform) for field in fields[:num_dense]]
    ids = [parse_id(field) for field in fields[num_dense:]]
    return label, dense, ids


def without_zeros(field):
    """The field without an ending of a point and zeros, where a digit stands before it."""
    digits, point, zeros = field.rpartition(b".")
    ends = point and zeros and not zeros.strip(b"0") and digits[-1:].isdigit()
    return digits if ends else field


def parse_dense(field, transform):
    """Transform an integer field; missing is the number 0."""
    field = b"0" if field in MISSING else without_zeros(field)
    digits = field[1:] if field[:1] == b"-" else field
    if any(byte not in DIGITS for byte in digits) or field == b"-":
        raise BadLineError
    number = int(field)
    if not -(2**63) <= number < 2**63:
        raise BadLineError
    return TRANSFORMS[transform](number)


def parse_id(field):
    """Value of a hexadecimal field; missing is 0."""
    if field in MISSING:
        return 0
    if len(field) > 8 or any(byte not in HEX_DIGITS for byte in field):
        raise BadLineError
    return int(field, 16)
