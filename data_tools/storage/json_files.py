"""Read our own JSON files, which may be damaged or edited.

Whatever is wrong (bytes that are not text, brackets nested too deeply, a key that is missing,
unknown or of another type) is one kind of error, which names the file, the key and the remedy.
"""

import json
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, TypeVar

import msgspec

T = TypeVar("T")
Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]  # of rows, bytes and the like, in a file


def parse(content: bytes, path: str, remedy: str, error: type[ValueError] = ValueError) -> Any:
    """The value of a JSON text in UTF-8.

    Parameters
    ----------
    path, remedy : str
        The file, and what to do if it is damaged; for the message.
    error : type
        Of the error.

    Raises
    ------
    `error`
        It is not JSON, or nested too deeply.
    """
    try:
        return json.loads(content.decode(), parse_constant=_refuse)
    except (ValueError, RecursionError) as fault:
        raise error(f"{path} is not JSON ({fault}); {remedy}") from None


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is not a JSON number")


def convert(
    value: Any, kind: type[T], path: str, remedy: str, error: type[ValueError] = ValueError
) -> T:
    """A value of JSON types as `kind`: a dataclass, `list[dict[str, Any]]` and the like.

    Lists become tuples and objects dataclasses where `kind` has them; nothing else is converted.
    Bounds and patterns are those of `msgspec.Meta`; a ValueError of `__post_init__` counts.

    Raises
    ------
    `error`
        A key is missing, unknown or of another type, or a value breaks a rule.
    """
    try:
        converted = msgspec.convert(value, kind)
    # A lone surrogate in place of a number cannot be encoded, and is no ValidationError.
    except (msgspec.ValidationError, RecursionError, UnicodeError) as fault:
        raise error(f"{path} is not valid ({fault}); {remedy}") from None
    unknown = next(_unknown_keys(value, converted, "$"), None)
    if unknown:
        raise error(f"{path} is not valid (unknown key `{unknown}`); {remedy}")
    return converted


def decode(
    content: bytes, kind: type[T], path: str, remedy: str, error: type[ValueError] = ValueError
) -> T:
    """Parse a JSON text and convert its value; see there."""
    return convert(parse(content, path, remedy, error), kind, path, remedy, error)


def _unknown_keys(value: Any, converted: Any, at: str) -> Iterator[str]:
    """Keys of objects that their dataclasses lack."""
    if is_dataclass(converted):
        known = {field.name for field in fields(converted)}
        yield from (f"{at}.{key}" for key in value if key not in known)
        for name in known & value.keys():
            yield from _unknown_keys(value[name], getattr(converted, name), f"{at}.{name}")
    elif isinstance(converted, list | tuple):
        # Shorter where a dataclass has left out what says nothing.
        for number, (each, made) in enumerate(zip(value, converted, strict=False)):
            yield from _unknown_keys(each, made, f"{at}[{number}]")
