"""Damage a JSON document as the bytes of a case say."""

import copy
import json
from typing import Any

VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    -1,
    2**31,
    2**63,
    10**30,
    0.5,
    float("nan"),
    "",
    "part-000-00000.arrow",
    "../victim",
    "/victim",
    "shards-1",
    "caf\udce9",
    "\0",
    "x" * 300,
    [],
    [0],
    [[]],
    {},
    {"name": "x"},
]
EDIT = 4  # bytes that an edit takes


def edited(document: Any, data: bytes) -> bytes:
    """A text of the document with an edit for every four bytes: what, where (two), and by what.

    A place is a value somewhere in the document, or a byte of its text once the text is edited.
    """
    document = copy.deepcopy(document)
    text: bytearray | None = None
    for start in range(0, len(data) - EDIT + 1, EDIT):
        what, place = data[start] % 8, int.from_bytes(data[start + 1 : start + 3], "big")
        value = data[start + 3]
        if what < 5 and text is None:
            chosen = copy.deepcopy(VALUES[value % len(VALUES)])
            document = _edit_value(document, what, place, chosen)
            continue
        text = bytearray(json.dumps(document).encode()) if text is None else text
        place %= len(text) + 1
        if what == 6:
            del text[place:]
        elif what == 7:
            text[place:place] = b"[" * (value * 100)
        else:
            text[place : place + 1] = bytes([value])
    return json.dumps(document).encode() if text is None else bytes(text)


def _edit_value(document: Any, what: int, place: int, value: Any) -> Any:
    """Replace, remove or rename an item of the document, or put one beside it."""
    items = list(_items(document))
    if not items:
        return value
    holder, key = items[place % len(items)]
    if what == 0:
        del holder[key]
    elif what == 1 and isinstance(holder, dict):
        holder["extra"] = value
    elif what == 1:
        holder.append(value)
    elif what == 2 and isinstance(holder, dict):
        holder[f"{key}2"] = holder.pop(key)
    else:
        holder[key] = value
    return document


def _items(value: Any) -> Any:
    """Every item of a document: the dict or list that holds it, and its key there."""
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _items(value[key])
