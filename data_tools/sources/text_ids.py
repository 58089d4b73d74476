"""Ids of texts, and of other values by the text that a CSV would have for them.

docs/logs.md has the table of types.
"""

import math
import re
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

MISSING = (b"", b"NULL", b"\\N", b"NaN", b"nan")  # fields without a value
EXACT_FLOATS = 2**53  # from here on float64 rounds whole numbers
NUMBERS, FLOATS = "numbers", "floats"  # what a column of a CSV holds, where not texts
_INTEGER = re.compile(rb"0|-?[1-9][0-9]{,19}")
# Floats as programs write them. Not `12e5`, because hexadecimal ids look like that.
_FLOAT = re.compile(rb"-?(0|[1-9][0-9]*)(\.[0-9]+([eE][+-]?[0-9]{1,4})?|[eE][+-][0-9]{1,4})|-?inf")
# To Arrow: what is neither an integer nor hashed.
_ODD = "^(" + b"|".join([_FLOAT.pattern, *map(re.escape, MISSING)]).decode() + ")$"


def text_ids(texts: Any) -> np.ndarray:
    """Ids of texts, as `robe ingest` makes them from a CSV: what a client sends to a server.

    Parameters
    ----------
    texts : array_like of str, int or None, any shape
        Fields of categorical columns as they are in the log. None and NaN are missing ones.

    Returns
    -------
    ndarray, of the shape of `texts`, int64
        The bits of the 64-bit ids: a whole number is its value, another text is hashed, missing
        is 0 (docs/logs.md). They are not yet taken modulo `max_ind_range`, which a `Scorer`, a
        server and an exported model do.

    Raises
    ------
    TypeError
        A value is neither a text nor an integer nor None.
    """
    fields = np.array(texts, object)
    ids = np.array([_field_id(field) for field in fields.flat], np.uint64)
    return ids.view(np.int64).reshape(fields.shape)


def _field_id(field: Any) -> int:
    if field is None or field != field:
        return 0
    if isinstance(field, int | np.integer) and not isinstance(field, bool):
        field = str(field)
    if not isinstance(field, str):
        raise TypeError(f"{field!r} is neither a text nor an integer nor None; give it as a text")
    return text_id(field.encode())


def text_id(text: bytes) -> int:
    """64-bit id of a text: a whole number is its value, other text is hashed, missing text is 0.

    A whole number fits 64 bits, signed (two's complement) or unsigned. An integer is written as
    `str` writes it, so `007` is not one. A float counts as its float64: `12.0` is 12. The hash is
    BLAKE2b with a digest of eight bytes, little-endian. So an id is the same whether a log holds it
    as a number, as a text, or in a CSV without types.
    """
    if text in MISSING:
        return 0
    whole = _whole(text)
    if whole is not None and -(2**63) <= whole < 2**64:
        return whole % 2**64
    return _plain_id(text)


def _plain_id(text: bytes) -> int:
    """`text_id` of what is neither missing nor a float."""
    if _INTEGER.fullmatch(text):
        value = int(text)
        if -(2**63) <= value < 2**64:
            return value % 2**64
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little")


def _whole(text: bytes) -> int | None:
    """Value of a float that is whole, else None."""
    value = float(text) if _FLOAT.fullmatch(text) else math.nan
    return int(value) if value.is_integer() else None


def content(texts: Iterable[bytes]) -> str | None:
    """What a CSV's column of these texts holds: NUMBERS, FLOATS if all of them are, None for texts.

    pandas writes a column that it holds as floats as floats; other programs write those that are
    whole as integers, if that is shorter.
    """
    kinds = set()
    for text in texts:
        if _INTEGER.fullmatch(text):
            kinds.add(NUMBERS)
        elif _FLOAT.fullmatch(text):
            kinds.add(FLOATS)
        elif text not in MISSING:
            return None
    if NUMBERS in kinds:
        return NUMBERS
    return FLOATS if kinds else None


def _may_be_id(text: bytes, holds: str | None) -> bool:
    """Whether a text, if it is a float in a column of numbers, is whole and surely not rounded."""
    if holds is None or not _FLOAT.fullmatch(text):
        return True
    whole = _whole(text)
    return whole is not None and (holds == NUMBERS or abs(whole) < EXACT_FLOATS)


def value_ids(values: pa.Array, holds: str | None) -> tuple[list[int], list[int]]:
    """Id of each value, which is neither an integer nor a float nor null, and those that have none.

    Parameters
    ----------
    values : Array
        Texts, or of another type that a CSV can hold.
    holds : str or None
        What the texts are, see `content`.
    """
    kind = values.type
    if pa.types.is_decimal(kind):
        found = [(number, int(number)) for number in values.to_pylist()]
        faults = [place for place, (number, whole) in enumerate(found) if number != whole]
        return [text_id(b"%d" % whole) for _, whole in found], faults
    if pa.types.is_temporal(kind):
        return [text_id(text) for text in _times(values)], []
    if pa.types.is_boolean(kind):
        return [text_id(str(value).encode()) for value in values.to_pylist()], []
    texts: list[bytes] = values.to_pylist()
    ids = [_plain_id(text) for text in texts]  # most are nothing else
    odd = pc.match_substring_regex(values, _ODD).to_numpy(zero_copy_only=False)
    places = np.flatnonzero(odd).tolist()
    for place in places:
        ids[place] = text_id(texts[place])
    return ids, [place for place in places if not _may_be_id(texts[place], holds)]


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
