"""Criteo text parsed by the rules as they are stated, one field after another, in pure Python.

It imports nothing of the package, so the tests can hold the compiled parser against it.
"""

import math

DIGITS = b"0123456789"
HEX_DIGITS = b"0123456789abcdefABCDEF"


class BadLineError(Exception):
    """The line breaks a rule."""


def parse(data, num_dense, num_categorical, log1p):
    """Parse all of `data`: whether it is labelled, the rows, the numbers of the bad lines.

    A row is (label or None, dense values, ids). Whether the text is labelled is what most of the
    lines with either number of fields say, of as many the first; None where no line tells.
    """
    lines = data.split(b"\n")
    if lines[-1] == b"":
        lines.pop()  # what follows the last line feed is no line
    features = num_dense + num_categorical
    fields = [line.count(b"\t") + 1 for line in lines]
    votes = [count for count in fields if count in (features, features + 1)]
    # `max` returns the first of equals.
    labelled = max(votes, key=votes.count) > features if votes else None
    rows, bad = [], []
    for number, line in enumerate(lines, start=1):
        try:
            if labelled is None:
                raise BadLineError
            rows.append(parse_line(line, labelled, num_dense, num_categorical, log1p))
        except BadLineError:
            bad.append(number)
    return labelled, rows, bad


def parse_line(line, labelled, num_dense, num_categorical, log1p):
    """Parse one line, without its line feed."""
    if line.endswith(b"\r"):
        line = line[:-1]
    fields = line.split(b"\t")
    if len(fields) != labelled + num_dense + num_categorical:
        raise BadLineError
    label = None
    if labelled:
        first = fields.pop(0)
        if first not in (b"0", b"1"):
            raise BadLineError
        label = int(first)
    dense = [parse_dense(field, log1p) for field in fields[:num_dense]]
    ids = [parse_id(field) for field in fields[num_dense:]]
    return label, dense, ids


def parse_dense(field, log1p):
    """Transform an integer field; empty is 0."""
    if field == b"":
        return 0.0
    digits = field[1:] if field[:1] == b"-" else field
    if not digits or any(byte not in DIGITS for byte in digits):
        raise BadLineError
    number = int(field)
    if not -(2**63) <= number < 2**63:
        raise BadLineError
    return math.log(max(number, 0) + 1) if log1p else float(number)


def parse_id(field):
    """Value of a hexadecimal field; empty is 0."""
    if len(field) > 8 or any(byte not in HEX_DIGITS for byte in field):
        raise BadLineError
    return int(field, 16) if field else 0
