"""CSV parsed by the rules of docs/logs.md as they are stated, one field after another.

It imports nothing of the package, so the tests can hold the reader against it. A log has the
columns label, dense value and id.
"""

import hashlib
import math
import re
import struct

MISSING = (b"", b"NULL", b"\\N", b"NaN", b"nan")
WORDS = {b"True": 1.0, b"true": 1.0, b"TRUE": 1.0, b"False": 0.0, b"false": 0.0, b"FALSE": 0.0}
NUMBER = re.compile(rb"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
PLAIN_INTEGER = re.compile(rb"0|-?[1-9][0-9]*")
FLOAT = re.compile(rb"-?(0|[1-9][0-9]*)(\.[0-9]+([eE][+-]?[0-9]{1,4})?|[eE][+-][0-9]{1,4})|-?inf")


class BadLineError(Exception):
    """The line breaks a rule."""


class UnstatedError(Exception):
    """The rules say nothing about such a line."""


def parse(text, separator):
    """Rows (label, dense value, id) of lines after the header, and the numbers of the bad lines.

    Lines are counted from 2. Dense values are as float32 holds them.

    Raises
    ------
    UnstatedError
    """
    lines = text.split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    rows, bad, tables = [], [], []
    for number, line in enumerate(lines, start=2):
        try:
            tables.append((number, split(line, separator)))
        except BadLineError:
            bad.append(number)
    holds = content([fields[2] for _, fields in tables])
    for number, fields in tables:
        try:
            rows.append((label(fields[0]), dense(fields[1]), categorical(fields[2], holds)))
        except BadLineError:
            bad.append(number)
    return rows, sorted(bad)


def split(line, separator):
    """The three fields of a line without its line feed."""
    line = line.removesuffix(b"\r")
    try:
        line.decode()
    except UnicodeDecodeError:
        raise BadLineError from None
    if b"\0" in line or b"\r" in line:
        raise BadLineError
    fields = [b""]
    place, quoted = 0, False
    while place < len(line):
        byte = line[place : place + 1]
        if quoted and line[place : place + 2] == b'""':
            fields[-1] += b'"'
            place += 1
        elif quoted and byte == b'"':
            quoted = False
            if line[place + 1 : place + 2] not in (b"", separator):
                raise UnstatedError  # what follows a closing quote
        elif quoted:
            fields[-1] += byte
        elif byte == separator:
            fields.append(b"")
        elif byte == b'"' and (place == 0 or line[place - 1 : place] == separator):
            quoted = True
        elif byte == b'"':
            raise UnstatedError  # a quote inside a field
        else:
            fields[-1] += byte
        place += 1
    if quoted or len(fields) != 3:
        raise BadLineError
    return fields


def number(field):
    """The number of a field, NaN where it is missing."""
    if field in MISSING:
        return math.nan
    if field in WORDS:
        return WORDS[field]
    if NUMBER.fullmatch(field):
        return float(field)
    if field != field.strip() or re.search(rb"nan|inf", field, re.IGNORECASE):
        raise UnstatedError  # spaces, and other spellings of what is no finite number
    raise BadLineError


def label(field):
    value = number(field)
    if value not in (0.0, 1.0):
        raise BadLineError
    return value


def dense(field):
    value = number(field)
    if math.isnan(value):
        return 0.0
    if math.isinf(value):
        raise BadLineError
    try:
        return struct.unpack("<f", struct.pack("<f", value))[0]
    except OverflowError:
        raise BadLineError from None


def content(fields):
    """ "numbers", "floats" or "texts": what a column holds."""
    present = [field for field in fields if field not in MISSING]
    integers = [field for field in present if is_integer(field)]
    floats = [field for field in present if FLOAT.fullmatch(field)]
    if not present or len(integers) + len(floats) < len(present):
        return "texts"
    return "numbers" if integers else "floats"


def is_integer(field):
    return PLAIN_INTEGER.fullmatch(field) and len(field.lstrip(b"-")) <= 20


def categorical(field, holds):
    """The id of a field."""
    if field in MISSING:
        return 0
    if is_integer(field) and -(2**63) <= int(field) < 2**64:
        return int(field) % 2**64
    if FLOAT.fullmatch(field):
        value = float(field)
        whole = value.is_integer()
        if holds != "texts" and not whole:
            raise BadLineError
        if holds == "floats" and abs(value) >= 2**53:
            raise BadLineError
        if whole and -(2**63) <= value < 2**64:
            return int(value) % 2**64
    return int.from_bytes(hashlib.blake2b(field, digest_size=8).digest(), "little")


def items(field, separator):
    """The items of a field that holds a list."""
    return [] if field in MISSING else field.split(separator)


def bag(field, separator, holds):
    """The ids of a field that holds a list; `holds` is the content of all items of its column."""
    return [categorical(item, holds) for item in items(field, separator)]


def bag_weights(field, separator):
    """The weights of a list, as float32 holds them."""
    values = [number(item) for item in items(field, separator)]
    if not all(map(math.isfinite, values)):
        raise BadLineError
    try:
        return [struct.unpack("<f", struct.pack("<f", value))[0] for value in values]
    except OverflowError:
        raise BadLineError from None
