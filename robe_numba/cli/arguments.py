"""Settings of a run as people write them on a command line."""

from collections.abc import Callable
from typing import Any, get_args, get_type_hints

from robe_numba.cli.sizes import parse_cardinalities
from robe_numba.training.settings import Settings

# All but what the launcher decides.
TYPES = {name: kind for name, kind in get_type_hints(Settings).items() if name != "ranks"}
EXAMPLES = {bool: "yes or no", int: "an integer, 16", float: "a number, 0.01"}
WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def parse_widths(text: str) -> tuple[int, ...]:
    """Hidden widths of an MLP, written as 512-256-64; empty for none.

    Raises
    ------
    ValueError : not of this form.
    """
    try:
        return tuple(int(width) for width in text.split("-")) if text else ()
    except ValueError:
        raise ValueError(f"widths are {text!r}; write them as 512-256-64") from None


def _parse_fractions(text: str) -> tuple[float, ...]:
    return tuple(float(share) for share in text.split("-"))


def _parse_bool(text: str) -> bool:
    return WORDS[text.lower()]


SEQUENCES: dict[str, Callable[[str], tuple[Any, ...]]] = {
    "bottom": parse_widths,
    "top": parse_widths,
    "cardinalities": parse_cardinalities,
    "fractions": _parse_fractions,
}


def parse_setting(name: str, text: str) -> Any:
    """The value of a setting of `TrainingConfig` from its text; "none" is None.

    Widths are written as 512-256-64, fractions as 0.8-0.1-0.1, cardinalities as `robe plan` takes
    them.

    Raises
    ------
    ValueError : there is no such setting, or the text is no value of its type.
    """
    if name not in TYPES:
        raise ValueError(f"there is no setting {name!r}; choose from {', '.join(TYPES)}")
    if text.lower() == "none":
        return None
    kinds = get_args(TYPES[name]) or (TYPES[name],)
    kind = next(kind for kind in kinds if kind is not type(None))
    parse = SEQUENCES.get(name) or {bool: _parse_bool}.get(kind, kind)
    try:
        return parse(text)
    except (KeyError, ValueError) as error:
        own = name in ("bottom", "top", "cardinalities")
        reason = str(error) if own else f"write it as {EXAMPLES.get(kind, '0.8-0.1-0.1')}"
        raise ValueError(f"{name} is {text!r}: {reason}") from None
