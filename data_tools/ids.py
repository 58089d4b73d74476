"""Ids: of a text, and of any value by the text that stands for it in a CSV.

docs/logs.md has the table of types.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator
from decimal import Decimal
from uuid import UUID

import pyarrow as pa

MISSING = frozenset([b"", b"NULL", b"\\N", b"NaN", b"nan"])  # fields that stand for no value
EXACT_FLOATS = 2**53  # from here on float64 rounds whole numbers
_INTEGER = re.compile(rb"0|-?[1-9][0-9]{,19}")
# Floats as programs write them. `12e5` is none of them: hexadecimal ids look like that.
_FLOAT = re.compile(rb"-?(0|[1-9][0-9]*)(\.[0-9]+([eE][+-]?[0-9]{1,4})?|[eE][+-][0-9]{1,4})|-?inf")


def text_id(text: bytes) -> int:
    """64-bit id of a text: a whole number is its value, other text is hashed, missing text is 0.

    An integer is written as `str` writes it and fits 64 bits, signed (two's complement) or
    unsigned; `007` is no integer. `12.0` is the integer 12, below 2**53 in magnitude. The hash is
    the first eight bytes of BLAKE2b, little-endian. So an id is the same whether a log holds it as
    a number, as a text, or in a CSV without types.
    """
    if text in MISSING:
        return 0
    if text[0] in b"-0123456789":
        value = int(text) if _INTEGER.fullmatch(text) else _whole(text)
        if value is not None and -(2**63) <= value < 2**64:
            return value % 2**64
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def _whole(text: bytes) -> int | None:
    """Value of a float that is whole, and that no other whole number was rounded to."""
    if not _FLOAT.fullmatch(text):
        return None
    value = Decimal(text.decode())
    return int(value) if abs(value) < EXACT_FLOATS and value == int(value) else None


def are_numbers(texts: Iterable[bytes]) -> bool:
    """Whether some of the texts are numbers, and all others are missing."""
    present = [text for text in texts if text not in MISSING]
    return bool(present) and all(_INTEGER.fullmatch(t) or _FLOAT.fullmatch(t) for t in present)


def value_ids(values: pa.Array, numbers: bool) -> Iterator[int | None]:
    """Id of each value, which is neither an integer nor a float nor null; None where it has none.

    Parameters
    ----------
    values : Array      Texts, or of another type that a CSV can hold.
    numbers : bool      The texts are numbers, so a float among them must be an id.
    """
    kind = values.type
    if pa.types.is_decimal(kind):
        return (text_id(b"%d" % int(v)) if v == int(v) else None for v in values.to_pylist())
    if pa.types.is_temporal(kind):
        return map(text_id, _times(values))
    if pa.types.is_boolean(kind):
        return (text_id(str(value).encode()) for value in values.to_pylist())
    texts: list[bytes] = values.to_pylist()
    if not numbers:
        return map(text_id, texts)
    return (
        None if _FLOAT.fullmatch(text) and _whole(text) is None else text_id(text) for text in texts
    )


def uuid_texts(values: pa.Array) -> pa.Array:
    """UUIDs of 16 bytes as texts."""
    return pa.array([str(UUID(bytes=v)).encode() for v in values.to_pylist()], pa.binary())


def _times(values: pa.Array) -> Iterator[bytes]:
    """Dates and times as Python's `str` writes them, but midnight without a zone as its date.

    So a value has one text whatever its unit. A time with a zone is written in UTC.
    """
    zone = getattr(values.type, "tz", None)
    if zone:
        values = values.cast(pa.timestamp(values.type.unit, "UTC"))
        values = values.cast(pa.timestamp(values.type.unit))
    for text in values.cast(pa.string()).to_pylist():
        whole, _, fraction = text.partition(".")
        fraction = fraction.rstrip("0")
        if fraction:
            whole += "." + fraction.ljust(6 if len(fraction) <= 6 else 9, "0")
        elif not zone:
            whole = whole.removesuffix(" 00:00:00")
        yield (whole + ("+00:00" if zone else "")).encode()
